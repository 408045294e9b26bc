"""``python -m recipes.torch_launcher``: torch's launcher as `recipes.launch` starts it.

It goes with the process that started it, and tells by one exit code why the processes ended.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from auxtasks.signals import die_with_parent

__all__ = ["main"]

STOPS = tuple(128 + number for number in (signal.SIGINT, signal.SIGTERM))


def main(arguments: Sequence[str]) -> int:
    """Start processes and wait for them; return 128 and the signal that stopped them, 0 if all is done, 1 otherwise.

    ``AUXTASKS_LAUNCHED`` says who has started this process, and to those that it starts, that it was this one.

    Args:
        arguments: of ``torchrun``.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until torch takes it over: no traceback of what was being imported
    die_with_parent(int(os.environ["AUXTASKS_LAUNCHED"]), signal.SIGTERM)
    os.environ["AUXTASKS_LAUNCHED"] = str(os.getpid())  # whom the processes go with
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    try:
        run(parse_args(list(arguments)))  # type: ignore[no-untyped-call]
    except SignalException as stop:
        return 128 + stop.sigval
    except ChildFailedError as error:
        return _explain([(rank, failure.exitcode) for rank, failure in error.failures.items()])
    return 0


def _explain(codes: Sequence[tuple[int, int]]) -> int:
    """Return the exit code of processes that failed; of those that could not say why, say how they ended.

    Args:
        codes: rank and exit code of each, the first to fail first: this launcher ends the others, by SIGTERM.

    Example:
        >>> _explain([(0, 143), (1, 1)])
        143
        >>> _explain([(0, 1), (1, -15)])
        1
        >>> _explain([(0, 1), (1, 143)])
        1
    """
    for rank, code in codes:
        if code < 0 and -code != signal.SIGTERM:
            print(f"process {rank} was ended by {signal.Signals(-code).name}", file=sys.stderr)
    _, first = codes[0]
    return first if first in STOPS else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
