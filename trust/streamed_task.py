"""Trains the shuffled-sentence task on a stream, which a worker reads, and tells what memory the two of them held.

``python -m trust.streamed_task CORPUS FACTS --steps 2000 [--stop-after 3]``
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from torch.optim.optimizer import register_optimizer_step_post_hook

from auxtasks.backbones import transformers
from auxtasks.data import train_tokenizer
from auxtasks.data.stream_sources import open_stream
from auxtasks.pretrain import pretrain
from auxtasks.tasks import ShuffledSentences
from auxtasks.training.settings import LoopSettings
from trust.miniature import TEXTS
from trust.streamed_run import EnoughError, Meter, arguments

__all__ = ["BATCH", "run"]

BATCH: Final = 100
TOKENIZER_LINES: Final = 240


class _Keeping(ShuffledSentences):
    """Keeps all that it reads, as a task must not: for the test of what notices that."""

    def transform(self, record: Mapping[str, Any], rng: np.random.Generator) -> Any:
        self.__dict__.setdefault("kept", []).append(repr(record) * 10)
        return super().transform(record, rng)


def run(corpus: Path, steps: int, stop_after: int | None, *, leaks: bool = False) -> dict[str, Any]:
    """Train, and return what was seen on the way.

    Args:
        corpus: text files, a sentence a line.
        steps: of the whole run.
        stop_after: so many batches; None goes on to the end.
        leaks: keep every row in the worker, as a task must not: for the test of what notices that.
    """
    stream = open_stream(corpus)
    tokenizer = train_tokenizer((row["text"] for row in stream), limit=TOKENIZER_LINES, **TEXTS["tokenizer"])
    backbone = transformers(tokenizer=tokenizer, **TEXTS["backbone"]["arguments"])
    task = (_Keeping if leaks else ShuffledSentences)(backbone)
    meter = Meter(steps, stop_after)
    hook = register_optimizer_step_post_hook(lambda *_: meter())
    loop = LoopSettings(log_every=steps // 10, device="cpu", show_progress=False)
    with contextlib.suppress(EnoughError):
        pretrain(task, stream, steps=steps, batch_size=BATCH, workers=1, loop=loop)
    hook.remove()
    return meter.facts()


def main() -> None:
    """Run, and write what was seen into a file."""
    parser = arguments(__doc__)
    parser.add_argument("--leaks", action="store_true")
    asked = parser.parse_args()
    found = run(asked.corpus, asked.steps, asked.stop_after, leaks=asked.leaks)
    asked.facts.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
