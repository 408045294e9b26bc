"""``python -m trust``: try everything, print what was tried, how often, and with what result."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from trust.proof import Proof, as_table

# In the order of the table.
SECTIONS = ("processes", "resumes", "kills", "bad_input", "security", "model_scale", "data_scale", "mutations")


def prove_sections(names: Sequence[str], *, full: bool) -> list[Proof]:
    """Run sections one after the other, telling what each found as soon as it is known."""
    proofs: list[Proof] = []
    for name in names:
        began = time.perf_counter()
        for proof in _proofs_of(name, full=full):
            proofs.append(proof)
            _tell(name, proof)
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    return proofs


def _proofs_of(name: str, *, full: bool) -> Iterator[Proof]:
    """Yield what a section proves; an error of its own is a failure like any other, and ends this section only."""
    try:
        with tempfile.TemporaryDirectory(prefix=f"trust-{name}-") as folder:
            yield from importlib.import_module(f"trust.{name}").prove(Path(folder), full=full)
    except Exception as error:  # whatever it is: the other sections are tried all the same, and the table is printed
        traceback.print_exc()
        words = str(error).strip().splitlines()
        yield Proof(name, "the section, to its end", 1, (f"{type(error).__name__}: {words[0] if words else ''}",))


def _tell(name: str, proof: Proof) -> None:
    print(f"{name}: {proof.tried}: {proof.times:,} tried, {len(proof.failures)} failed. {proof.result}".rstrip())
    for failure in proof.failures:
        print(f"  {failure}")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Try sections, and print the table; return 0 if all held, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m trust", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"some of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--small", action="store_true", help="as often as the tests do, not as often as a proof needs")
    asked = parser.parse_args(arguments)
    if unknown := sorted(set(asked.sections) - set(SECTIONS)):
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # begun in the background, as its commands would be then
        signal.signal(signal.SIGINT, signal.default_int_handler)
    proofs = prove_sections(asked.sections or list(SECTIONS), full=not asked.small)
    Console(width=150 if not sys.stdout.isatty() else None).print(as_table(proofs))
    return 0 if all(proof.holds for proof in proofs) else 1


if __name__ == "__main__":
    sys.exit(main())
