"""Tiny networks that TensorFlow and Keras wrote, loaded here without either: do they compute the same numbers?

The files, their inputs and outputs were written by the scripts beside them, in tests/transfer/foreign/fixtures.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from auxtasks.backbones import transformers
from auxtasks.backbones.text import TokenBatch
from transfer.foreign import check_outputs
from transfer.foreign.load import load_foreign
from transfer.foreign.rule_set import RuleSet
from transfer.rename import Rule

FIXTURES = Path(__file__).parent.parent / "tests" / "transfer" / "foreign" / "fixtures"
STATISTICS = {"moving_mean": "running_mean", "moving_variance": "running_var"}


def of_tensorflow() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, eps=0.001), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3, bias=False), nn.BatchNorm2d(5, eps=0.001), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3),
    )  # fmt: skip


TENSORFLOW = (
    Rule(".*/(Adam|Adam_1)|beta[12]_power|global_step", None),
    Rule("net/stem/weights", "0.weight", "conv"),
    Rule("net/top/weights", "4.weight", "conv"),
    *(
        Rule(f"net/{part}/BatchNorm/{theirs}", f"{place}.{ours}")
        for part, place in (("stem", 1), ("top", 5))
        for theirs, ours in {**STATISTICS, "beta": "bias"}.items()
    ),
    Rule("net/logits/weights", "8.weight", "flattened", grid=(2, 2)),
    Rule("net/logits/biases", "8.bias"),
)


class OfKeras(nn.Module):
    """The network of keras/make_keras.py."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4, eps=0.001)
        self.depthwise = nn.Conv2d(4, 8, 3, groups=4)
        self.a, self.b = nn.Linear(8, 4), nn.Linear(4, 4, bias=False)
        self.logits = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = 2 * self.depthwise(self.norm(self.stem(x)).relu())
        x = self.b(self.a(x.movedim(1, -1))).movedim(-1, 1)
        logits: Tensor = self.logits(x.flatten(1))
        return logits


KERAS = (
    Rule("stem/kernel", "stem.weight", "conv"),
    Rule("depthwise/kernel", "depthwise.weight", "depthwise"),
    Rule("(stem|depthwise|logits)/bias", r"\1.bias"),
    # A file of weights alone does not say which of a normalisation's arrays it lacks: there they have numbers.
    Rule("norm/(beta|0)", "norm.bias"),
    Rule("norm/(moving_mean|1)", "norm.running_mean"),
    Rule("norm/(moving_variance|2)", "norm.running_var"),
    Rule("mix/([ab])/kernel", r"\1.weight", "linear"),
    Rule("mix/a/bias", "a.bias"),
    Rule("logits/kernel", "logits.weight", "flattened", grid=(4, 4)),
)


def saved(framework: str, name: str) -> NDArray[np.float32]:
    with np.load(FIXTURES / framework / "outputs.npz") as file:
        found: NDArray[np.float32] = file[name]
        return found


def compare(what: str, path: Path, network: nn.Module, rules: str | RuleSet | tuple[Rule, ...], *, of: str) -> None:
    plan = load_foreign(path, network, rules)
    images = torch.from_numpy(saved(path.parent.name, f"{of}_images")).permute(0, 3, 1, 2)
    found = check_outputs(network, images, saved(path.parent.name, f"{of}_logits"))
    print(
        f"{what}: {len(plan.loaded)} tensors loaded, {len(plan.missing)} not in the file; logits differ by at most "
        f"{found.difference:.1e}, at a scale of {found.scale:.2g}"
    )


def main() -> None:
    compare("TensorFlow, checkpoint V2", FIXTURES / "tensorflow" / "convnet.ckpt", of_tensorflow(), TENSORFLOW,
            of="convnet")  # fmt: skip
    compare("TensorFlow, checkpoint V1", FIXTURES / "tensorflow" / "convnet_v1.ckpt", of_tensorflow(), TENSORFLOW,
            of="convnet")  # fmt: skip
    for what, name in {"archive": "tiny.keras", "weights": "tiny.weights.h5", "model": "tiny.h5"}.items():
        compare(f"Keras, {what} ({name})", FIXTURES / "keras" / name, OfKeras(), KERAS, of="tiny")
    sizes = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 16, "max_position_embeddings": 12, "hidden_act": "gelu_new"}  # fmt: skip
    bert = transformers({"model_type": "bert", **sizes}, length=12)
    plan = load_foreign(FIXTURES / "tensorflow" / "bert.ckpt", bert, "bert-tensorflow", least_share=1.0)
    ids = torch.from_numpy(saved("tensorflow", "bert_tokens")).long()
    tokens = TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool))
    found = check_outputs(bert, tokens, saved("tensorflow", "bert_hidden"))
    print(f"TensorFlow, BERT by its shipped rules: {len(plan.loaded)} tensors loaded; hidden states differ by at most "
          f"{found.difference:.1e}, at a scale of {found.scale:.2g}")  # fmt: skip


if __name__ == "__main__":
    main()
