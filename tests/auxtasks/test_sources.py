"""Sources: every kind of file gives the same checked columns, and every mistake says what to do."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from auxtasks.data.arrow import some_values
from auxtasks.data.folders import index_folder, natural_key
from auxtasks.data.images import decode_images
from auxtasks.data.sources import load_source
from auxtasks.errors import ColumnError, DataError

NAMES = ["s10", "s2", "s1", "s2"]
ROLES = {"image": "image", "label": "name"}


@pytest.fixture(autouse=True)
def _arrow_files_in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "arrow")


@pytest.fixture
def pictures() -> list[np.ndarray]:
    return [np.full((4, 5, 3), 40 * (1 + number), np.uint8) for number in range(4)]


@pytest.fixture
def files(tmp_path: Path, pictures: list[np.ndarray]) -> list[str]:
    (tmp_path / "pictures").mkdir()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{number}.png")
    return [f"pictures/{number}.png" for number in range(len(pictures))]


def contents(tmp_path: Path, files: list[str]) -> list[bytes]:
    return [(tmp_path / file).read_bytes() for file in files]


def check(dataset: datasets.Dataset, pictures: list[np.ndarray]) -> None:
    """The oracle: roles first, natural order of names, and the very pictures."""
    assert dataset.column_names[:2] == ["image", "label"]
    assert dataset.features["image"] == datasets.Image(decode=False)
    assert dataset.features["label"].names == ["s1", "s2", "s10"]
    assert dataset["label"][:] == [2, 1, 0, 1]
    table = decode_images(dataset, size=(4, 5), channels=3, workers=1)
    np.testing.assert_array_equal(table.pixels, np.stack(pictures))


def test_natural_key_orders_numbers_as_numbers() -> None:
    assert sorted(["s10", "s2", "s01", "s1", "", "9" * 5000], key=natural_key) == [
        "",
        "9" * 5000,
        "s01",
        "s1",
        "s2",
        "s10",
    ]


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_csv_image_paths_start_from_its_folder(
    tmp_path: Path, files: list[str], pictures: list[np.ndarray], suffix: str
) -> None:
    frame = pd.DataFrame({"extra": [1, 2, 3, 4], "image": files, "name": NAMES})
    place = tmp_path / f"table.{suffix}"
    frame.to_csv(place, sep="\t" if suffix == "tsv" else ",", index=False)
    dataset = load_source(place, columns=ROLES)
    check(dataset, pictures)
    assert dataset["extra"][:] == [1, 2, 3, 4]


def test_csv_labels_stay_strings(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("text,code\na,001\nb,NA\nc,1\n")
    dataset = load_source(tmp_path / "table.csv", columns={"text": "text", "label": "code"})
    assert dataset.features["label"].names == ["001", "1", "NA"]
    assert dataset["label"][:] == [0, 2, 1]


def test_csv_numbers_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("text,age\nnull,3\nb,NA\n")
    dataset = load_source(tmp_path / "table.csv", columns={"text": "text"})
    assert dataset[0] == {"text": "null", "age": 3.0}
    assert dataset[1]["age"] is None or np.isnan(dataset[1]["age"])


def test_csv_empty_label_is_missing(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("text,code\na,x\nb,\n")
    with pytest.raises(DataError, match=r"table.csv: row 1 has no label in the column 'code' \(1 of 2"):
        load_source(tmp_path / "table.csv", columns={"text": "text", "label": "code"})
    dataset = load_source(tmp_path / "table.csv", columns={"text": "text", "label": "code"}, allow_unlabelled=True)
    assert dataset["label"][:] == [0, None]


def test_json_lines(tmp_path: Path, files: list[str], pictures: list[np.ndarray]) -> None:
    lines = [json.dumps({"image": file, "name": name}) for file, name in zip(files, NAMES, strict=True)]
    (tmp_path / "table.jsonl").write_text("\n".join(lines))
    check(load_source(tmp_path / "table.jsonl", columns=ROLES), pictures)


def test_text_lines(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("one\ntwo\n")
    assert load_source(tmp_path / "lines.txt", columns={"text": "text"})["text"][:] == ["one", "two"]


def test_text_file_of_paragraphs(tmp_path: Path) -> None:
    # A mark at the start, Windows line ends, blank lines, and characters that Python's splitlines would split at.
    content = b"\xef\xbb\xbfone\r\n\r\n \t\r\nt\xc3\xa9wo\x0bhalf\n\n" + "three\u2028rest\n\u00a0\n".encode()
    (tmp_path / "lines.txt").write_bytes(content)
    expected = ["one", "t\u00e9wo\x0bhalf", "three\u2028rest"]
    assert load_source(tmp_path / "lines.txt", columns={"text": "text"})["text"][:] == expected
    with gzip.open(tmp_path / "packed.txt.gz", "wb") as file:
        file.write(content.removeprefix(b"\xef\xbb\xbf"))
    assert load_source(tmp_path / "packed.txt.gz", columns={"text": "text"})["text"][:] == expected
    (tmp_path / "corpus.en").write_bytes(content)
    assert load_source(tmp_path / "corpus.en", kind="text", columns={"text": "text"})["text"][:] == expected


@pytest.mark.parametrize(
    ("content", "line", "byte", "position"),
    [
        (b"one\ntwo\nthr\xe9e\n", 3, "0xe9", 11),
        (b"\xff\xfeo\0n\0", 1, "0xff", 0),
        (b"one\ncut \xc3", 2, "0xc3", 8),  # the file ends within a character
        (b"\n" * 9 + b"\xc3\xa9" * 8 + b"\xa9", 10, "0xa9", 25),  # blocks of 16 bytes split a character
        (b"\n" * 14 + b"\xe6\xbc\xff", 15, "0xe6", 14),  # found in the next block
    ],
)
@pytest.mark.parametrize("suffix", ["txt", "csv", "jsonl", "txt.gz"])
def test_bytes_that_are_not_utf8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, line: int, byte: str, position: int, suffix: str
) -> None:
    monkeypatch.setattr("auxtasks.data.text_files._BLOCK_BYTES", 16)
    place = tmp_path / f"corpus.{suffix}"
    place.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    with pytest.raises(
        DataError,
        match=rf"corpus\.{suffix} is not UTF-8: line {line} holds the byte {byte} \(byte {position} of the file\)",
    ):
        load_source(place, columns={"text": "text"})


def test_characters_across_blocks_are_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("auxtasks.data.text_files._BLOCK_BYTES", 3)
    lines = ["\u6f22\u5b57 \U0001f600", "\u00e9" * 7]
    (tmp_path / "lines.txt").write_text("\n".join(lines), encoding="utf-8")
    assert load_source(tmp_path / "lines.txt", columns={"text": "text"})["text"][:] == lines


def test_files_with_nothing_in_them(tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text("\n \n")
    with pytest.raises(DataError, match=r"blank.txt has no rows"):
        load_source(tmp_path / "blank.txt", columns={"text": "text"})
    for suffix in ("txt", "csv", "jsonl"):
        (tmp_path / f"nothing.{suffix}").write_bytes(b"")
        with pytest.raises(DataError, match=rf"nothing.{suffix} is empty"):
            load_source(tmp_path / f"nothing.{suffix}", columns={"text": "text"})


def test_packed_otherwise_is_left_to_the_reader(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "table.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("lines.txt", "\u00e9ne\ntwo\n")
    assert load_source(tmp_path / "table.zip", kind="text", columns={"text": "text"})["text"][:] == ["\u00e9ne", "two"]


@pytest.mark.parametrize("form", ["binary", "struct", "struct_other_order", "path", "struct_of_path"])
def test_parquet_of_pandas(tmp_path: Path, files: list[str], pictures: list[np.ndarray], form: str) -> None:
    cells: Mapping[str, list[object]] = {
        "binary": list(contents(tmp_path, files)),
        "struct": [{"bytes": data, "path": None} for data in contents(tmp_path, files)],
        "struct_other_order": [{"path": "a.png", "bytes": data} for data in contents(tmp_path, files)],
        "path": list(files),
        "struct_of_path": [{"bytes": None, "path": file} for file in files],
    }
    pd.DataFrame({"image": cells[form], "name": NAMES}).to_parquet(tmp_path / "table.parquet")
    check(load_source(tmp_path / "table.parquet", columns=ROLES), pictures)


def test_parquet_of_datasets(tmp_path: Path, pictures: list[np.ndarray]) -> None:
    features = datasets.Features({"image": datasets.Image(), "name": datasets.ClassLabel(names=["s10", "s2", "s1"])})
    written = datasets.Dataset.from_dict({"image": pictures, "name": [0, 1, 2, 1]}, features)
    written.to_parquet(tmp_path / "table.parquet")
    check(load_source(str(tmp_path / "table.parquet"), columns=ROLES), pictures)


def test_folder_of_parquet_has_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        pd.DataFrame({"text": [split]}).to_parquet(tmp_path / f"{split}.parquet")
    assert load_source(tmp_path, split="test", columns={"text": "text"})["text"][:] == ["test"]
    with pytest.raises(DataError, match=r"has the splits test, train; say which one"):
        load_source(tmp_path, columns={"text": "text"})
    with pytest.raises(DataError, match=r"no split 'tset'; it has test, train. Did you mean \"test\"\?"):
        load_source(tmp_path, split="tset", columns={"text": "text"})


def test_splits_of_parquet_may_be_folders(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for part in (0, 1):
            pd.DataFrame({"text": [f"{split} {part}"]}).to_parquet(tmp_path / split / f"{part}.parquet")
    assert load_source(tmp_path, split="test", columns={"text": "text"})["text"][:] == ["test 0", "test 1"]
    with pytest.raises(DataError, match=r"has the splits test, train; say which one"):
        load_source(tmp_path, columns={"text": "text"})


def test_folder_of_parquet_without_splits_is_one(tmp_path: Path) -> None:
    for part in ("b", "a", ".hidden/c"):
        (tmp_path / part).parent.mkdir(exist_ok=True)
        pd.DataFrame({"text": [part]}).to_parquet(tmp_path / f"{part}.parquet")
    assert load_source(tmp_path, columns={"text": "text"})["text"][:] == ["a", "b"]
    with pytest.raises(DataError, match=r"is a folder; only parquet files are read from one"):
        load_source(tmp_path, kind="csv", columns={"text": "text"})


def test_damaged_file_names_it(tmp_path: Path) -> None:
    (tmp_path / "table.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"table.parquet cannot be read as parquet: "):
        load_source(tmp_path / "table.parquet", columns=ROLES)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.csv", r"'absent.csv' is not there"),
        ("../a/b/c", r"'../a/b/c' is not there"),
        ("builtin:drawn_face", r"no built-in data set 'drawn_face'.*Did you mean \"drawn_faces\"\?"),
    ],
)
def test_absent_source(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_source(name, columns=ROLES)


def test_unknown_suffix(tmp_path: Path) -> None:
    (tmp_path / "table.xlsx").write_bytes(b"")
    with pytest.raises(DataError, match=r"ends in .xlsx; expected a folder or one of .csv, .json"):
        load_source(tmp_path / "table.xlsx", columns=ROLES)


# --- the Hub ---------------------------------------------------------------------------------------------------------


def test_hub_name_goes_to_load_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def load_dataset(
        name: str, config: str | None, *, split: str | None, cache_dir: str | None
    ) -> datasets.DatasetDict:
        asked.append((name, config, split, cache_dir))
        return datasets.DatasetDict(train=datasets.Dataset.from_dict({"text": ["a"]}))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    dataset = load_source("owner/name", config="small", columns={"text": "text"})
    assert asked == [("owner/name", "small", None, None)]
    assert dataset["text"][:] == ["a"]


def test_hub_without_network_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    # The real call, told to stay offline, which is what an unreachable Hub ends in after its retries.
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        DataError, match=r"'owner/absent' is no local file or folder, and the Hugging Face Hub did not .*pass the path"
    ):
        load_source("owner/absent", columns=ROLES)


def test_hub_error_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise RuntimeError("Dataset scripts are no longer supported")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"'owner/name' could not be loaded: Dataset scripts are no longer"):
        load_source("owner/name", columns=ROLES)


# --- in memory and built in ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["arrays", "pil", "bytes", "paths"])
def test_mapping_of_lists(tmp_path: Path, files: list[str], pictures: list[np.ndarray], form: str) -> None:
    cells: Mapping[str, list[object]] = {
        "arrays": list(pictures),
        "pil": [Image.fromarray(picture) for picture in pictures],
        "bytes": list(contents(tmp_path, files)),
        "paths": [str(tmp_path / file) for file in files],
    }
    check(load_source({"image": cells[form], "name": NAMES}, columns=ROLES), pictures)


def test_dataset_of_nested_lists_and_a_selection(pictures: list[np.ndarray]) -> None:
    nested = datasets.Dataset.from_dict(
        {"image": [picture.tolist() for picture in pictures[::-1]], "name": NAMES[::-1]}
    )
    check(load_source(nested.select([3, 2, 1, 0]), columns=ROLES), pictures)


def test_pictures_alone_in_memory(pictures: list[np.ndarray]) -> None:
    assert load_source({"image": pictures}, columns={"image": "image"}).column_names == ["image"]


def test_picture_in_memory_that_is_none(pictures: list[np.ndarray]) -> None:
    with pytest.raises(
        ColumnError, match=r"row 1: expected a picture as whole numbers.*found float64 of shape \(2, 2\)"
    ):
        load_source({"image": [pictures[0], np.zeros((2, 2))]}, columns={"image": "image"})
    with pytest.raises(ColumnError, match=r"row 0: expected a picture, a path, bytes or a uint8 array, found float"):
        load_source({"image": [1.5]}, columns={"image": "image"})
    with pytest.raises(DataError, match=r"differ in length: \{'image': 1, 'name': 2\}"):
        load_source({"image": pictures[:1], "name": ["a", "b"]}, columns=ROLES)


def test_builtin_with_options() -> None:
    dataset = load_source(
        "builtin:drawn_faces", columns={"image": "image", "label": "label"}, options={"people": 2, "photos": 1}
    )
    assert len(dataset) == 2
    with pytest.raises(DataError, match=r"no option 'poeple'; allowed are people, .*Did you mean \"people\"\?"):
        load_source("builtin:drawn_faces", columns=ROLES, options={"poeple": 2})
    with pytest.raises(DataError, match=r"options belong to a built-in source"):
        load_source({"text": ["a"]}, columns={"text": "text"}, options={"people": 2})


# --- folders of images -----------------------------------------------------------------------------------------------


def make_folder(root: Path, names: list[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        # Not a picture: indexing must not open any.
        (root / name).write_bytes(b"")
    return root


def test_folder_is_indexed_in_natural_order_without_opening(tmp_path: Path) -> None:
    names = ["s10/b.png", "s2/10.jpg", "s2/9.JPG", "s2/inner/a.webp", "s2/.hidden.png", ".trash/x.png", "s2/notes.txt"]
    dataset = load_source(make_folder(tmp_path / "faces", names), columns={"image": "image", "label": "label"})
    assert dataset["file"][:] == ["s2/9.JPG", "s2/10.jpg", "s2/inner/a.webp", "s10/b.png"]
    assert dataset.features["label"].names == ["s2", "s10"]
    assert dataset["label"][:] == [0, 0, 0, 1]
    assert dataset[0]["image"] == {"bytes": None, "path": str(tmp_path / "faces/s2/9.JPG")}


def test_flat_folder_has_no_labels(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "flat", ["b.png", "a.png"])
    assert load_source(root, columns={"image": "image"})["file"][:] == ["a.png", "b.png"]
    optional = load_source(root, columns={"image": "image", "label": "label"}, required=["image"])
    assert optional.column_names == ["image", "file"]
    with pytest.raises(ColumnError, match=r"no column 'label'.*put each class into a sub-folder"):
        load_source(root, columns={"image": "image", "label": "label"})


def test_image_beside_the_class_folders_is_unlabelled(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "mixed", ["a/1.png", "stray.png"])
    with pytest.raises(DataError, match=r"mixed: row 0 has no label"):
        load_source(root, columns={"image": "image", "label": "label"})


def test_folder_with_splits(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", ["train/a/1.png", "train/b/1.png", "test/a/2.png"])
    dataset = load_source(root, split="train", columns={"image": "image", "label": "label"})
    assert dataset["file"][:] == ["a/1.png", "b/1.png"]
    with pytest.raises(DataError, match=r"holds the folders test, train, which look like splits"):
        load_source(root, columns={"image": "image", "label": "label"})
    with pytest.raises(DataError, match=r"no sub-folder 'trian'; found test, train. Did you mean \"train\"\?"):
        load_source(root, split="trian", columns={"image": "image"})


def test_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"empty holds no image; looked for files ending in .bmp"):
        load_source(make_folder(tmp_path / "empty", ["a/notes.txt"]), columns={"image": "image"})


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("../outside.png", r"link.png is a link that leads out of .*faces, to .*outside.png"),
        ("a", r"link.png is a link to the folder .*count twice"),
        ("gone.png", r"link.png is a link that leads nowhere"),
        ("link.png", r"link.png is a link that leads nowhere"),
    ],
)
def test_links_out_of_the_folder_are_refused(tmp_path: Path, target: str, message: str) -> None:
    root = make_folder(tmp_path / "faces", ["a/1.png", "../outside.png"])
    (root / "link.png").symlink_to(target)
    with pytest.raises(DataError, match=message):
        index_folder(root)


def test_link_inside_the_folder_and_a_linked_root_are_fine(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "faces", ["a/1.png"])
    (root / "a" / "2.png").symlink_to("1.png")
    (tmp_path / "alias").symlink_to(root)
    assert index_folder(tmp_path / "alias") == (["a/1.png", "a/2.png"], ["a", "a"])


# --- columns ---------------------------------------------------------------------------------------------------------


def test_missing_column_shows_what_there_is() -> None:
    with pytest.raises(
        ColumnError,
        match=r"no column 'txet', declared for the role 'text'; it has 'text' \(string\).*Did you mean \"text\"",
    ):
        load_source({"text": ["a"]}, columns={"text": "txet"})
    with pytest.raises(DataError, match=r"required roles \['label'\] have no column declared"):
        load_source({"text": ["a"]}, columns={"text": "text"}, required=["label"])
    with pytest.raises(DataError, match="no columns were declared"):
        load_source({"text": ["a"]}, columns={})


@pytest.mark.parametrize(
    ("labels", "names", "codes"),
    [
        ([10, 9, 10], ["9", "10"], [1, 0, 1]),
        ([True, False, True], ["False", "True"], [1, 0, 1]),
        ([2.0, 1.0, 2.0], ["1", "2"], [1, 0, 1]),
    ],
)
def test_labels_that_are_no_strings(labels: list[object], names: list[str], codes: list[int]) -> None:
    dataset = load_source({"y": labels}, columns={"label": "y"})
    assert dataset.features["label"].names == names
    assert dataset["label"][:] == codes


def test_labels_that_are_no_classes() -> None:
    with pytest.raises(ColumnError, match=r"'y', declared as label, holds numbers with a fraction, such as 0.5"):
        load_source({"y": [0.5, 1.0]}, columns={"label": "y"})
    with pytest.raises(ColumnError, match=r"'y', declared as label, holds List; expected strings"):
        load_source({"y": [[1], [2]]}, columns={"label": "y"})


def test_unlabelled_rows() -> None:
    minus_one = datasets.Dataset.from_dict(
        {"y": [1, -1]}, datasets.Features({"y": datasets.ClassLabel(names=["a", "b"])})
    )
    for source in ({"y": ["b", None]}, {"y": [1.0, float("nan")]}, minus_one):
        with pytest.raises(DataError, match=r"row 1 has no label in the column 'y' \(1 of 2 rows"):
            load_source(source, columns={"label": "y"})
        assert load_source(source, columns={"label": "y"}, allow_unlabelled=True)["label"][1] is None
    # A row that is not asked for may lack one.
    kept = load_source({"y": ["b", None], "part": ["x", "y"]}, columns={"label": "y"}, where={"part": "x"})
    assert kept["label"][:] == [0]


def test_other_columns_stay_and_a_shadowed_one_is_renamed() -> None:
    dataset = load_source(
        {"label": [7, 8], "name": ["b", "a"], "text": ["x", "y"]}, columns={"label": "name", "text": "text"}
    )
    assert dataset.column_names == ["label", "text", "source_label"]
    assert dataset[0] == {"label": 1, "text": "x", "source_label": 7}


def test_two_roles_may_share_or_swap_columns() -> None:
    shared = load_source({"name": ["b", "a"]}, columns={"label": "name", "group": "name"})
    assert shared[0] == {"label": 1, "group": "b"}
    swapped = load_source({"label": ["x", "y"], "text": ["b", "a"]}, columns={"label": "text", "text": "label"})
    assert swapped[0] == {"label": 1, "text": "x"}


def test_wrong_types_of_image_and_text() -> None:
    with pytest.raises(ColumnError, match=r"'n', declared as image, holds int64; expected pictures"):
        load_source(datasets.Dataset.from_dict({"n": [1]}), columns={"image": "n"})
    with pytest.raises(ColumnError, match=r"'n', declared as text, holds int64; expected strings"):
        load_source({"n": [1]}, columns={"text": "n"})
    with pytest.raises(DataError, match=r"row 1 has no text in the column 'n'; leave such rows out"):
        load_source({"n": ["a", None]}, columns={"text": "n"})


def test_a_missing_text_is_told_by_its_row_in_the_table() -> None:
    some = {"n": [None, "a", "b", None, None], "part": ["x", "y", "y", "y", "x"]}
    with pytest.raises(DataError, match=r"row 0 has no text"):
        load_source(some, columns={"text": "n"})
    with pytest.raises(DataError, match=r"row 3 has no text"):  # of the rows asked for, numbered as in the table
        load_source(some, columns={"text": "n"}, where={"part": "y"})
    some["n"][3] = "c"  # a row that is not asked for may lack one
    assert load_source(some, columns={"text": "n"}, where={"part": "y"})["text"][:] == ["a", "b", "c"]


# --- rows ------------------------------------------------------------------------------------------------------------

TABLE = {
    "text": ["a", "b", "c", "d"],
    "part": ["train", "test", "train", "test"],
    "fold": [1, 1, 2, 2],
    "weight": [0.5, 1.0, 1.0, 2.0],
    "seen": [True, False, True, True],
    "who": ["s2", "s10", "s10", "s1"],
}


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ({"part": "train"}, ["a", "c"]),
        ({"part": "train", "fold": 2}, ["c"]),
        ({"weight": 1}, ["b", "c"]),
        ({"seen": True}, ["a", "c", "d"]),
        ({"label": "s10"}, ["b", "c"]),
    ],
)
def test_where(where: dict[str, str | int | float | bool], kept: list[str]) -> None:
    dataset = load_source(TABLE, columns={"text": "text", "label": "who"}, where=where)
    assert dataset["text"][:] == kept
    # The names do not depend on the rows, so two selections agree on the codes.
    assert dataset.features["label"].names == ["s1", "s2", "s10"]


def test_where_on_class_labels() -> None:
    source = datasets.Dataset.from_dict(
        {"y": [0, 1]}, datasets.Features({"y": datasets.ClassLabel(names=["no", "yes"])})
    )
    assert load_source(source, columns={"label": "y"}, where={"y": "yes"})["label"][:] == [1]
    with pytest.raises(
        DataError, match=r"no row has y = 'maybe' \(str\); the column is 2 classes and holds 'no', 'yes'"
    ):
        load_source(source, columns={"label": "y"}, where={"y": "maybe"})


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"part": "trian"}, r"no row has part = 'trian' \(str\); the column is string and holds 'test', 'train'\."),
        ({"fold": "1"}, r"no row has fold = '1' \(str\); the column is int64 and holds 1, 2\."),
        ({"seen": 1}, r"no row has seen = 1 \(int\); the column is bool and holds False, True\."),
        ({"fold": True}, r"no row has fold = True \(bool\); the column is int64"),
        ({"prat": "train"}, r"where names the column 'prat', but there are only .*Did you mean \"part\"\?"),
        ({"part": "test", "fold": 1, "seen": True}, r"no row has part = 'test' and fold = 1 and seen = True"),
    ],
)
def test_where_that_finds_nothing(where: dict[str, str | int | float | bool], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_source(TABLE, columns={"text": "text"}, where=where)


def test_where_lists_at_most_ten_values() -> None:
    with pytest.raises(DataError, match=r"holds 'v0', 'v1', .*'v9' and 20 more\."):
        load_source({"text": [f"v{number}" for number in range(30)]}, columns={"text": "text"}, where={"text": "x"})


def test_no_rows() -> None:
    with pytest.raises(DataError, match="has no rows"):
        load_source({"text": []}, columns={"text": "text"})


def test_rows_of_a_split_are_taken_by_their_numbers(tmp_path):
    file = tmp_path / "ten.parquet"
    datasets.Dataset.from_dict({"text": [str(row) for row in range(10)]}).to_parquet(file)

    def rows(split):
        return [int(text) for text in load_source(file, columns={"text": "text"}, split=split)["text"]]

    assert rows("train[:3]") == [0, 1, 2]
    assert rows("train[3:5]") == [3, 4]
    assert rows("train[-2:]") == [8, 9]
    assert rows("train[7:99]") == [7, 8, 9]
    with pytest.raises(DataError, match=r"'train\[10:\]' holds no rows; train has 10"):
        rows("train[10:]")
    with pytest.raises(DataError, match=r"no split 'tran'; it has train\. Did you mean \"train\"\?"):
        rows("tran[:3]")
    with pytest.raises(DataError, match=r"no split 'train\[:50%\]'"):
        rows("train[:50%]")


def test_values_that_have_no_order_are_named_as_such():
    # Arrow cannot tell lists apart; a message that wants to show them must not fail on it.
    lists = pa.chunked_array([pa.array([[1], [2]])])
    assert some_values(lists, None) == "values that cannot be compared"
    assert some_values(pa.chunked_array([pa.array([2, 10, 2])]), None) == "2, 10"
