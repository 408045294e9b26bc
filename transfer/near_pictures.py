"""Pictures that are copies of each other though their pixels differ: recompressed, resized, brighter, mirrored.

Candidates come from a perceptual hash, which is fast and calls many strangers alike; each is confirmed by how well the
details of the two pictures agree. Of 13,233 photos of LFW the hash alone finds 14,182 pairs at the distance used here,
of which nearly all show different photos; benchmarks/near_duplicates.py measures what is left after the second look.

Reference: Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010, for the hash (signs of
the lowest frequencies of a discrete cosine transform). The second measure is the normalised cross-correlation of what
is left of a thumbnail without its slow changes of brightness.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.ndimage
from PIL import Image

__all__ = ["PictureSignatures", "near_pictures", "picture_signatures"]

Pixels = npt.NDArray[np.uint8]

SIDE = 32  # pixels of a thumbnail
FREQUENCIES = 8  # a side, so that a hash has 64 bits
BLUR = 4.0  # pixels of a thumbnail: slower changes than this are light, not detail
_BLOCK = 1024


@dataclasses.dataclass(frozen=True)
class PictureSignatures:
    """What pictures are compared by.

    Attributes:
        hashes: (N,) uint64.
        thumbnails: (N, 32, 32) uint8, grey.

    Example:
        >>> pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 1), dtype=np.uint8)
        >>> told: PictureSignatures = picture_signatures(pictures)
        >>> turned = picture_signatures(pictures[:, :, ::-1])
        >>> told.thumbnails.shape, told.mirrored().hashes.tolist() == turned.hashes.tolist()
        ((2, 32, 32), True)
    """

    hashes: npt.NDArray[np.uint64]
    thumbnails: Pixels

    def mirrored(self) -> PictureSignatures:
        """Return the signatures of the mirror images."""
        thumbnails = np.ascontiguousarray(self.thumbnails[:, :, ::-1])
        return PictureSignatures(_hashes(thumbnails), thumbnails)


def picture_signatures(pixels: Pixels) -> PictureSignatures:
    """Return the signatures of pictures (N, H, W, C) or (N, H, W) uint8, of any size.

    Example:
        >>> picture_signatures(np.zeros((3, 40, 20, 3), np.uint8)).thumbnails.shape
        (3, 32, 32)
    """
    thumbnails = np.stack([_thumbnail(picture) for picture in pixels]) if len(pixels) else np.empty((0, SIDE, SIDE))
    thumbnails = thumbnails.astype(np.uint8)
    return PictureSignatures(_hashes(thumbnails), thumbnails)


def _thumbnail(picture: Pixels) -> Pixels:
    image = Image.fromarray(picture[..., 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture).convert("L")
    # Averages of areas: a photo and its half-size copy then have the same thumbnail.
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def _hashes(thumbnails: Pixels) -> npt.NDArray[np.uint64]:
    """Return whether each low frequency is above the median of its picture, as bits."""
    found = np.empty(len(thumbnails), np.uint64)
    for start in range(0, len(thumbnails), _BLOCK):
        block = thumbnails[start : start + _BLOCK].astype(np.float32)
        low = scipy.fft.dctn(block, axes=(1, 2), norm="ortho")[:, :FREQUENCIES, :FREQUENCIES].reshape(len(block), -1)
        # Without the first, which is the brightness of the whole picture.
        bits = low > np.median(low[:, 1:], axis=1, keepdims=True)
        found[start : start + _BLOCK] = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    return found


def near_pictures(
    seen: PictureSignatures, test: PictureSignatures, *, distance: int = 10, least: float = 0.94
) -> list[tuple[int, int, float]]:
    """Find pictures of a test set that are copies of pictures that were seen, also mirrored ones.

    Every pair is compared by its hashes: 10,000 pictures with a million take a minute or two.

    Args:
        seen, test: see `picture_signatures`.
        distance: most bits in which the hashes of a candidate differ.
        least: correlation of the details, from -1 to 1, from which on a candidate is a copy.

    Returns:
        (seen row, test row, correlation), the best pair of each test row that has one, in order of test rows.

    Example:
        >>> pixels = np.random.default_rng(0).integers(0, 200, (5, 40, 40, 1), dtype=np.uint8).repeat(2, 1).repeat(2, 2)
        >>> brighter = pixels[[3]] + np.uint8(30)
        >>> [(row, found) for row, found, _ in near_pictures(picture_signatures(pixels), picture_signatures(brighter))]
        [(3, 0)]
    """
    best: dict[int, tuple[int, int, float]] = {}
    for shown in (test, test.mirrored()):
        for seen_rows, test_rows in _candidates(seen.hashes, shown.hashes, distance):
            alike = _agreement(seen.thumbnails[seen_rows], shown.thumbnails[test_rows])
            for place in np.flatnonzero(alike >= least):
                row = int(test_rows[place])
                if row not in best or alike[place] > best[row][2]:
                    best[row] = (int(seen_rows[place]), row, float(alike[place]))
    return [best[row] for row in sorted(best)]


Rows = npt.NDArray[np.int64]


def _candidates(
    seen: npt.NDArray[np.uint64], test: npt.NDArray[np.uint64], distance: int
) -> Iterator[tuple[Rows, Rows]]:
    """Yield pairs of rows whose hashes differ in few bits, block by block: all pairs at once would not fit a memory."""
    width = max(1, (1 << 24) // max(1, len(test)))
    for start in range(0, len(seen), width):
        differing = np.bitwise_count(seen[start : start + width, None] ^ test[None, :])
        seen_rows, test_rows = np.nonzero(differing <= distance)
        for part in range(0, len(seen_rows), _BLOCK):
            yield seen_rows[part : part + _BLOCK] + start, test_rows[part : part + _BLOCK]


def _agreement(first: Pixels, second: Pixels) -> npt.NDArray[np.float64]:
    """Return the correlation of the details of two thumbnails, pair by pair; 0 where a picture is flat."""
    one, other = _details(first), _details(second)
    correlations: npt.NDArray[np.float64] = np.einsum("nd,nd->n", one, other)
    return correlations


def _details(thumbnails: Pixels) -> npt.NDArray[np.float64]:
    """Return thumbnails without slow changes, centred and of length 1, (N, 1024)."""
    pictures = thumbnails.astype(np.float64)
    sharp = (pictures - scipy.ndimage.gaussian_filter(pictures, (0, BLUR, BLUR))).reshape(len(pictures), -1)
    sharp -= sharp.mean(axis=1, keepdims=True)
    length = np.linalg.norm(sharp, axis=1, keepdims=True)
    # A flat picture has rounding errors for details.
    scaled: npt.NDArray[np.float64] = np.divide(sharp, length, out=np.zeros_like(sharp), where=length > 1e-6 * SIDE)
    return scaled
