"""Files of all formats with bytes changed at random: each is read, or refused by an error of ours, and nothing else."""

import gzip
import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from PIL import Image

from auxtasks.backbones import Backbone, mlp
from auxtasks.backbones.weights import read_weights
from auxtasks.data import decode_one, load_source, load_tokenizer, train_tokenizer
from auxtasks.errors import AuxtasksError, BackboneError, CheckpointError, DataError, ImageError


def parquet():
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": ["a b", "c", "d"] * 9, "label": ["x", "y", "z"] * 9}), buffer)
    return buffer.getvalue()


CSV = b'text,label\n"a, b",x\nc,y\n"d\ne",z\n' * 3
JSON = b'{"text": "a b", "label": "x"}\n{"text": "\\u00e9", "label": "y"}\n' * 4
SVM = b"2 qid:10 1:0.3 5:1.2 # doc7\n0 qid:10 2:1 3:-1e-3\n1 qid:11 1:5\n" * 3
TABLES = {
    "x.csv": CSV, "x.tsv": CSV.replace(b",", b"\t"), "x.jsonl": JSON, "x.txt": "one\ntw\u00f6\n\nthree\n".encode() * 5,
    "x.svm": SVM, "x.parquet": parquet(), "x.csv.gz": gzip.compress(CSV, mtime=0),
    "x.svm.gz": gzip.compress(SVM, mtime=0),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_a_table_with_bytes_changed_is_read_or_refused(tmp_path, count_refused, name):
    columns = (
        {"qid": "qid"} if ".svm" in name else {"text": "text"} if ".txt" in name else {"text": "text", "label": "label"}
    )
    count = iter(range(10**9))

    def read(content):
        place = tmp_path / f"{next(count)}" / name  # the library that reads keeps what it read by its path
        place.parent.mkdir()
        place.write_bytes(content)
        rows = load_source(place, columns=columns, cache_dir=tmp_path / "cache")
        assert len(rows[:][next(iter(columns))]) == len(rows) > 0

    read(TABLES[name])
    refused = count_refused(TABLES[name], read, DataError)
    assert refused > 0


def picture(form, mode="RGB"):
    pixels = np.random.default_rng(0).integers(256, size=(9, 7, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_a_picture_with_bytes_changed_is_read_or_refused(count_refused, form):
    content = picture(form)
    assert decode_one(content, (4, 4), 3).shape == (4, 4, 3)

    def read(changed):
        assert decode_one(changed, (4, 4), 3).shape == (4, 4, 3)

    assert count_refused(content, read, ImageError) > 0


@pytest.mark.parametrize("file", ["manifest.json", "config.json", "model.safetensors"])
def test_a_backbone_with_bytes_changed_is_the_same_or_refused(tmp_path, count_refused, file):
    whole = mlp(width=2, hidden=[3], seed=0)
    place = whole.save_pretrained(tmp_path / "backbone")
    content = (place / file).read_bytes()

    def read(changed):
        (place / file).write_bytes(changed)
        found = Backbone.from_pretrained(place)
        assert all(torch.equal(found.state_dict()[name], value) for name, value in whole.state_dict().items())

    assert count_refused(content, read, CheckpointError) > 0


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_with_bytes_changed_are_read_or_refused(tmp_path, count_refused, suffix):
    state, place = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}, tmp_path / f"x.{suffix}"
    torch.save(state, place) if suffix == "pt" else safetensors.torch.save_file(state, place)
    content = place.read_bytes()

    def read(changed):
        place.write_bytes(changed)
        assert all(isinstance(value, torch.Tensor) for value in read_weights(place).values())

    assert count_refused(content, read, BackboneError) > 0


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_with_bytes_changed_is_read_or_refused(tmp_path, count_refused, file):
    train_tokenizer(["the dog saw the cat", "the cat saw the dog"], size=60).save_pretrained(tmp_path / "saved")
    place = shutil.copytree(tmp_path / "saved", tmp_path / "changed")
    # Without the indents, in which a change means nothing.
    content = json.dumps(json.loads((place / file).read_text())).encode()

    def read(changed):
        (place / file).write_bytes(changed)
        assert load_tokenizer(place)("the dog \u6f22")["input_ids"]

    assert count_refused(content, read, DataError) > 0


def test_what_is_no_error_of_ours_is_not_taken_for_one(count_refused):
    """The net has no hole: a reader that fails in another way fails the test."""

    def read(_):
        raise KeyError("not ours")

    assert not issubclass(KeyError, AuxtasksError)
    with pytest.raises(KeyError, match="not ours"):
        count_refused(b"abc", read, AuxtasksError)
