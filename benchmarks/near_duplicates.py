"""How many near duplicates are found, and how many of what is found are none: on LFW and on the sentence corpus.

Edited copies are planted, and their share that is found is printed. What else is found was in the data already: in LFW
copies under two names, which the sheet of pictures shows; among held-out sentences, other sentences that are alike.
"""

from __future__ import annotations

import argparse
import io
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from auxtasks.data import decode_images, load_source
from auxtasks.seeding import generator
from transfer.near_pictures import near_pictures, picture_signatures
from transfer.near_texts import near_texts, text_signatures, words_of

PLANTED = 500


def _recompressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=30)
    return Image.open(buffer).convert("RGB")


def _half(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.resize((width // 2, height // 2), Image.Resampling.BOX)


def _cropped(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((width // 20, height // 20, width - width // 20, height - height // 20))


EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG, quality 30": _recompressed,
    "half size": _half,
    "brightness x 1.4": lambda image: ImageEnhance.Brightness(image).enhance(1.4),
    "contrast x 0.6": lambda image: ImageEnhance.Contrast(image).enhance(0.6),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "turned by 3 degrees": lambda image: image.rotate(3, Image.Resampling.BILINEAR),
    "cropped by 5 %": _cropped,
}


def pictures(data: Path, sheet: Path | None) -> None:
    rows = load_source(data / "faces" / "lfw.parquet", columns={"image": "image", "label": "name"})
    table = decode_images(rows, size=(80, 80), channels=3)
    began = time.perf_counter()
    signatures = picture_signatures(table.pixels)
    print(f"LFW: {len(table):,} pictures; signatures in {time.perf_counter() - began:.1f} s")
    began = time.perf_counter()
    pairs = _inside(table.pixels)
    print(f"pairs of different rows found: {len(pairs)}, in {time.perf_counter() - began:.1f} s")
    for seen, test, alike in pairs:
        names = [table.class_names[table.labels[row]] for row in (seen, test)]
        print(f"  {alike:.3f}  {names[0]}, {names[1]}")
    if sheet is not None:
        _sheet(table.pixels, pairs).save(sheet)
    chosen = generator(0, "planted").choice(len(table), PLANTED, replace=False)
    for name, edit in EDITS.items():
        copies = [np.asarray(edit(Image.fromarray(table.pixels[row]))) for row in chosen]
        found = near_pictures(signatures, picture_signatures(np.stack(copies)))
        right = sum(seen == chosen[test] for seen, test, _ in found)
        print(f"planted, {name}: {right / PLANTED:.1%} found, {len(found) - right} of {PLANTED} as another picture")


def _inside(pixels: NDArray[np.uint8]) -> list[tuple[int, int, float]]:
    """Return near duplicates inside one collection, each pair once: rows against all rows before them."""
    signatures = picture_signatures(pixels)
    found = []
    for start in range(1000, len(pixels) + 1000, 1000):
        for row in range(start - 1000, min(start, len(pixels))):
            if row == 0:
                continue
            before = type(signatures)(signatures.hashes[:row], signatures.thumbnails[:row])
            one = type(signatures)(signatures.hashes[row : row + 1], signatures.thumbnails[row : row + 1])
            found += [(seen, row, alike) for seen, _, alike in near_pictures(before, one)]
    return sorted(found, key=lambda pair: -pair[2])


def _sheet(pixels: NDArray[np.uint8], pairs: list[tuple[int, int, float]]) -> Image.Image:
    rows = [np.concatenate([pixels[seen], pixels[test]], axis=1) for seen, test, _ in pairs]
    return Image.fromarray(np.concatenate(rows or [np.zeros((1, 1, 3), np.uint8)]))


def _edited(text: str, rng: np.random.Generator) -> str:
    """Change, leave out or repeat one word."""
    words = text.split()
    place = int(rng.integers(len(words)))
    how = int(rng.integers(3))
    if how == 0:
        words[place] = "something"
    elif how == 1:
        del words[place]
    else:
        words.insert(place, words[place])
    return " ".join(words).upper()


def sentences(data: Path) -> None:
    parts = {
        part: list(load_source(data / "text" / "pretrain_mix", columns={"text": "text"}, split=part)["text"])
        for part in ("train", "test")
    }
    seen, test = parts["train"], parts["test"]
    began = time.perf_counter()
    signatures = text_signatures(seen)
    print(f"sentences: {len(seen):,} seen, {len(test):,} held out; signatures in {time.perf_counter() - began:.1f} s")
    began = time.perf_counter()
    alike = near_texts(seen, test, seen_signatures=signatures)
    print(f"held-out sentences with a near duplicate: {len(alike)}, in {time.perf_counter() - began:.1f} s")
    for row, other, share in alike:
        print(f"  {share:.2f}  {seen[row]} | {test[other]}")
    rng = generator(0, "planted")
    long = [row for row in rng.permutation(len(seen))[: 4 * PLANTED] if len(words_of(seen[row])) >= 10][:PLANTED]
    found = near_texts(seen, [_edited(seen[row], rng) for row in long], seen_signatures=signatures)
    right = sum(seen_row == long[other] for seen_row, other, _ in found)
    print(f"planted, a word changed, left out or repeated: {right / len(long):.1%} of {len(long)} found")
    print(f"planted and right / all found: {right / (right + len(alike)):.1%}, each other one counted as wrong")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sheet", type=Path, help="write the pairs of pictures side by side into this file")
    given = parser.parse_args()
    data = Path(os.environ.get("AUXTASKS_DATA", ""))
    if not (data / "faces").is_dir():
        raise SystemExit("AUXTASKS_DATA names no folder with faces/ and text/: this measures on real data only.")
    pictures(data, given.sheet)
    sentences(data)


if __name__ == "__main__":
    main()
