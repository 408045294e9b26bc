"""What several tests need: a few drawn people, a network that is trained in milliseconds a step, files with damage."""

import os
import signal
from collections.abc import Callable

import datasets
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from auxtasks.backbones import Backbone, convnet
from auxtasks.data import ImageTable, decode_images, load_source


def pytest_configure() -> None:
    """Let Ctrl-C mean what it means to a user: side by side, tests run in processes that ignore it, as their own do."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def draw_faces(people: int, photos: int, first_person: int = 0) -> datasets.Dataset:
    return load_source(
        "builtin:drawn_faces",
        columns={"image": "image", "label": "label"},
        options={"people": people, "photos": photos, "size": 20, "first_person": first_person},
    )


@pytest.fixture(scope="session")
def faces() -> datasets.Dataset:
    """8 people with 4 photos each, in order."""
    return draw_faces(8, 4)


@pytest.fixture(scope="session")
def strangers() -> datasets.Dataset:
    """6 people with 4 photos each, none of them among `faces`."""
    return draw_faces(6, 4, first_person=1000)


@pytest.fixture(scope="session")
def face_table(faces: datasets.Dataset) -> ImageTable:
    """`faces`, decoded to grey pictures of 20 x 20 pixels."""
    return decode_images(faces, size=(20, 20), channels=1)


@pytest.fixture
def tiny_convnet() -> Callable[..., Backbone]:
    """Build a network for pictures of 16 x 16 pixels."""

    def build(*, dropout: float = 0.0, seed: int = 0, embedding: int = 8) -> Backbone:
        return convnet(size=16, widths=[8, 16], blocks=[1, 1], embedding=embedding, dropout=dropout, seed=seed)

    return build


# How many inputs a fuzz test tries of each format.
EXAMPLES = int(os.environ.get("AUXTASKS_FUZZ_EXAMPLES", "25"))
# What is done, where (of 65,536 parts), and with which bytes.
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["change", "cut", "insert", "repeat", "end"]),
        st.integers(0, 65535),
        st.binary(min_size=1, max_size=6),
    ),
    min_size=1,
    max_size=4,
)


def edited(content: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    """Return bytes with edits made one after the other."""
    for what, where, given_bytes in edits:
        at, size = where * len(content) // 65536, len(given_bytes)
        match what:
            case "change":
                content = content[:at] + given_bytes + content[at + size :]
            case "cut":
                content = content[:at] + content[at + size :]
            case "insert":
                content = content[:at] + given_bytes + content[at:]
            case "repeat":
                content = content[: at + size] + content[at:]
            case "end":
                content = content[:at]
    return content


@pytest.fixture
def count_refused(record_property: Callable[[str, object], None]) -> Callable[..., int]:
    """Hand bytes with edits at random places to a reader, and return how often it refused them by its error.

    Any other error fails the test. How many are tried is AUXTASKS_FUZZ_EXAMPLES, 25 if it is not set.
    """

    def count(content: bytes, read: Callable[[bytes], object], *errors: type[Exception], share: float = 1.0) -> int:
        refused: list[bool] = []

        @settings(
            derandomize=True,
            deadline=None,
            max_examples=max(1, round(share * EXAMPLES)),
            database=None,
            phases=[Phase.generate],  # a failure names its edits; making them fewer takes long
            suppress_health_check=list(HealthCheck),
        )
        @given(EDITS)
        def one(edits: list[tuple[str, int, bytes]]) -> None:
            try:
                read(edited(content, edits))
            except errors:
                refused.append(True)
            else:
                refused.append(False)

        one()
        record_property("inputs", len(refused))
        assert len(refused) >= min(share * EXAMPLES, 10)
        return sum(refused)

    return count
