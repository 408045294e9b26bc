"""Data that needs no download: drawn faces, and scikit-learn's bundled sets.

A drawn face is a picture of a person who does not exist. Who it is lies in some forty shape parameters (head, hair,
eyes, brows, nose, mouth, beard, glasses, moles); how the photo came out lies in others (pose, expression, light,
background, occlusion, blur, noise). Everything is drawn from implicit shapes: a signed distance for each pixel, made a
coverage by its ratio to the pixel's size, which is antialiasing for the price of a division.

The photos are made hard on purpose: light, background and pose dominate the distance between pixels (see `drawn_faces`
for what a classical baseline reaches).
"""

from __future__ import annotations

import dataclasses
import functools
import io
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import datasets
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from auxtasks.errors import DataError, did_you_mean
from auxtasks.seeding import generator

__all__ = ["BUILTINS", "Builtin", "digits", "draw_face", "drawn_faces", "features", "load_builtin"]

# Always float32; NumPy's types say that a float32 array times a Python float is float64, which it is not.
_Plane: TypeAlias = NDArray[np.floating[Any]]
Option: TypeAlias = str | int | float | bool


# --- who: parameters of a person -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Person:
    """Shape and tone of one face, in units of half a head's height; v points down, the head's centre is the origin."""

    head_width: float
    head_height: float
    jaw: float  # how much narrower the chin is than the cheeks
    squareness: float  # exponent of the head's outline; 2 is an ellipse
    skin: float  # 0 light, 1 dark
    hair_tone: float
    hair_style: int  # 0 bald, 1 receding, 2 short, 3 fringe, 4 side parting, 5 long, 6 curly, 7 bob
    hairline: float
    hair_height: float
    parting: float
    eye_distance: float
    eye_v: float
    eye_width: float
    eye_height: float
    eye_slant: float
    iris: float
    iris_tone: float
    brow_gap: float
    brow_thickness: float
    brow_angle: float
    brow_length: float
    brow_tone: float
    nose_length: float
    nose_width: float
    nose_shade: float
    mouth_v: float
    mouth_width: float
    lip_height: float
    lip_tone: float
    mouth_bend: float
    ear_size: float
    ear_v: float
    beard: float  # 0 none, else its strength
    moustache: float
    glasses: int  # 0 none, 1 round, 2 square, 3 thick square
    glasses_size: float
    cheek: float
    wrinkles: float
    moles: tuple[tuple[float, float, float], ...]


def _draw_person(rng: np.random.Generator) -> _Person:
    """Draw who it is."""

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(rng.random())

    skin = between(0, 1) ** 1.3
    hair_tone = between(0, 1)
    head_height = between(0.86, 1.04)
    eye_v = between(-0.16, 0.06)
    mouth_v = between(0.44, 0.62) * head_height
    hair_style = int(rng.integers(8))
    # Beards are rare with long hair, where hardly a face would be left.
    bearded = between(0, 1) - (0.22 if hair_style in (5, 7) else 0)
    return _Person(
        head_width=between(0.60, 0.84),
        head_height=head_height,
        jaw=between(0.02, 0.48),
        squareness=between(1.9, 2.9),
        skin=skin,
        # Light hair is rare on dark skin.
        hair_tone=hair_tone * (1 - 0.7 * skin),
        hair_style=hair_style,
        hairline=between(-0.78, -0.42),
        hair_height=between(0.04, 0.24),
        parting=between(-0.5, 0.5),
        eye_distance=between(0.22, 0.36),
        eye_v=eye_v,
        eye_width=between(0.10, 0.17),
        eye_height=between(0.045, 0.095),
        eye_slant=between(-0.28, 0.28),
        iris=between(0.045, 0.075),
        iris_tone=between(0, 1),
        brow_gap=between(0.12, 0.22),
        brow_thickness=between(0.015, 0.06),
        brow_angle=between(-0.32, 0.32),
        brow_length=between(0.11, 0.21),
        brow_tone=between(0.0, 0.35),
        nose_length=between(0.20, 0.40),
        nose_width=between(0.06, 0.17),
        nose_shade=between(0.25, 0.7),
        mouth_v=mouth_v,
        mouth_width=between(0.15, 0.34),
        lip_height=between(0.02, 0.075),
        lip_tone=between(0, 1),
        mouth_bend=between(-0.07, 0.07),
        ear_size=between(0.08, 0.2),
        ear_v=between(-0.08, 0.14),
        beard=0.0 if bearded < 0.72 else between(0.35, 1.0),
        moustache=0.0 if between(0, 1) < 0.75 else between(0.4, 1.0),
        glasses=int(rng.integers(1, 4)) if between(0, 1) < 0.3 else 0,
        glasses_size=between(0.16, 0.23),
        cheek=between(0, 0.5),
        wrinkles=max(0.0, between(-0.8, 0.6)),
        moles=tuple(
            (between(-0.5, 0.5), between(-0.1, 0.6), between(0.018, 0.035)) for _ in range(int(rng.integers(0, 3)))
        ),
    )


# --- how: parameters of a photo --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Shot:
    """Everything that varies between two photos of one person."""

    scale: float
    shift: tuple[float, float]
    roll: float
    yaw: float
    pitch: float
    mouth_open: float
    smile: float
    brow_raise: float
    eye_open: float
    gaze: tuple[float, float]
    hair_grown: float
    glasses_on: bool
    beard_grown: float
    gain: float
    gamma: float
    light_angle: float
    light_strength: float
    shadow: tuple[float, float, float]  # angle, offset, strength
    backdrop: tuple[float, float, float]  # tone, slope, angle
    blob: tuple[float, float, float, float]  # u, v, radius, tone
    clothes: float
    occlusion: tuple[float, float, float, float] | None  # angle, offset, half-width, tone
    blur: float
    noise: float


def _draw_shot(rng: np.random.Generator) -> _Shot:
    """Draw how the photo came out."""

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(rng.random())

    def around(spread: float) -> float:
        return spread * float(rng.standard_normal())

    return _Shot(
        scale=between(0.69, 0.80),
        shift=(around(0.03), around(0.03)),
        roll=around(0.065),
        yaw=max(-1.0, min(1.0, around(0.32))),
        pitch=max(-1.0, min(1.0, around(0.4))),
        mouth_open=max(0.0, between(-0.12, 0.12)),
        smile=around(0.045),
        brow_raise=around(0.022),
        eye_open=min(1.15, max(0.15, 1.0 + around(0.22))),
        gaze=(around(0.35), around(0.2)),
        hair_grown=around(0.03),
        glasses_on=between(0, 1) < 0.85,
        beard_grown=between(0.75, 1.1),
        gain=between(0.7, 1.15),
        gamma=math.exp(around(0.22)),
        light_angle=between(-math.pi, math.pi),
        light_strength=between(0.0, 0.5),
        shadow=(between(-math.pi, math.pi), between(-0.2, 0.9), max(0.0, between(-0.4, 0.45))),
        backdrop=(between(0, 1), between(-0.5, 0.5), between(-math.pi, math.pi)),
        blob=(between(-1, 1), between(-1, 1), between(0.2, 0.7), between(0, 1)),
        clothes=between(0.03, 0.95),
        occlusion=(between(-math.pi, math.pi), between(0.35, 0.9), between(0.1, 0.25), between(0, 1))
        if between(0, 1) < 0.12
        else None,
        blur=max(0.0, between(-0.1, 0.24)),
        noise=between(0.005, 0.04),
    )


# --- shapes ----------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=8)
def _grid(size: int) -> tuple[_Plane, _Plane]:
    """Return x and y of each pixel's centre, (H, W) each, from -1 to 1."""
    line = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    x, y = np.meshgrid(line, line)
    x.setflags(write=False)
    y.setflags(write=False)
    return x, y


def _length(u: _Plane, v: _Plane) -> _Plane:
    # A third of the time of np.hypot, whose care for overflow nothing here needs.
    length: _Plane = np.sqrt(u * u + v * v)
    return length


def _clipped(values: _Plane) -> _Plane:
    # A third of the overhead of np.clip.
    clipped: _Plane = np.minimum(np.maximum(values, 0), 1)
    return clipped


def _ellipse(u: _Plane, v: _Plane, radius_u: float, radius_v: float) -> _Plane:
    """Signed distance, nearly, to an ellipse about the origin: exact on the outline, which is where it is used."""
    return (_length(u * (1 / radius_u), v * (1 / radius_v)) - 1) * min(radius_u, radius_v)


def _capsule(u: _Plane, v: _Plane, half_length: float, radius: float) -> _Plane:
    """Signed distance to a line along u about the origin, with round ends."""
    return _length(np.maximum(np.abs(u) - half_length, 0), v) - radius


class _Canvas:
    """Planes of tones that shapes are laid over, first to last."""

    def __init__(self, tones: _Plane, pixel: float) -> None:
        self.tones = tones  # (C, H, W)
        self._sharpness = 1 / pixel

    def coverage(self, distance: _Plane) -> _Plane:
        """Return how much of each pixel a shape covers, (H, W)."""
        return _clipped(0.5 - distance * self._sharpness)

    def lay(self, tone: _Plane, coverage: _Plane) -> None:
        """Blend a tone (C, 1, 1) over the pixels that a shape covers (H, W)."""
        self.tones += coverage * (tone - self.tones)

    def fill(self, tone: _Plane, distance: _Plane, opacity: float = 1.0) -> None:
        """Lay a shape given by its distance."""
        self.lay(tone, self.coverage(distance) * opacity if opacity != 1 else self.coverage(distance))


# --- drawing ---------------------------------------------------------------------------------------------------------

_SKIN = np.array([[0.97, 0.84, 0.75], [0.86, 0.66, 0.52], [0.60, 0.41, 0.29], [0.33, 0.21, 0.15]], dtype=np.float32)
_HAIR = np.array([[0.05, 0.04, 0.04], [0.26, 0.15, 0.09], [0.50, 0.31, 0.16], [0.86, 0.72, 0.45]], dtype=np.float32)
_IRIS = np.array([[0.16, 0.09, 0.05], [0.30, 0.24, 0.12], [0.28, 0.42, 0.58]], dtype=np.float32)
_LIPS = np.array([[0.80, 0.45, 0.42], [0.58, 0.20, 0.22]], dtype=np.float32)
_LUMA = np.array([[0.299, 0.587, 0.114]], dtype=np.float32)


def _mix(table: _Plane, place: float) -> _Plane:
    """Read a table of colours (K, 3) at a place from 0 to 1, between its rows where need be."""
    at = min(max(place, 0.0), 1.0) * (len(table) - 1)
    low = min(int(at), len(table) - 2)
    mixed: _Plane = table[low] + (at - low) * (table[low + 1] - table[low])
    return mixed


class _Artist:
    """Draws one photo; each method adds a layer, and `draw` says in which order."""

    def __init__(self, person: _Person, shot: _Shot, size: int, channels: int) -> None:
        self.person, self.shot, self.channels = person, shot, channels
        self.x, self.y = _grid(size)
        cos, sin = math.cos(shot.roll) / shot.scale, math.sin(shot.roll) / shot.scale
        x, y = self.x - shot.shift[0], self.y - (shot.shift[1] + 0.06)
        self.u = x * cos + y * sin
        self.v = y * cos - x * sin
        # A head that turns: what lies on its front slides sideways, and is narrowed.
        turn = shot.yaw
        self.front_u = (self.u - turn * 0.24) * (1 / (1 - 0.22 * abs(shot.yaw)))
        self.front_v = self.v - (0.07 * shot.pitch)
        self.skin = _mix(_SKIN, person.skin)
        self.hair = _mix(_HAIR, person.hair_tone)
        tones = np.full((channels, size, size), shot.backdrop[0], dtype=np.float32)
        self.canvas = _Canvas(tones, pixel=2 / size / shot.scale)

    def tone(self, colour: _Plane | float) -> _Plane:
        """Return a colour as (C, 1, 1): itself, or its grey."""
        if isinstance(colour, float):
            return np.full((self.channels, 1, 1), colour, dtype=np.float32)
        values = colour if self.channels == 3 else _LUMA @ colour
        return values.reshape(self.channels, 1, 1)

    def draw(self) -> _Plane:
        """Return the photo, (C, H, W) from 0 to 1."""
        self.backdrop()
        self.neck()
        self.hair_behind()
        self.ears()
        self.head()
        self.beard()
        self.nose()
        self.mouth()
        self.eyes()
        self.brows()
        self.marks()
        self.hair_before()
        self.glasses()
        self.occlusion()
        self.light()
        return self.canvas.tones

    def backdrop(self) -> None:
        _, slope, angle = self.shot.backdrop
        ramp = self.x * (slope * math.cos(angle)) + self.y * (slope * math.sin(angle))
        self.canvas.tones += ramp
        u, v, radius, blob = self.shot.blob
        self.canvas.fill(self.tone(blob), _length(self.x - u, self.y - v) - radius, 0.8)

    def neck(self) -> None:
        self.canvas.fill(self.tone(self.shot.clothes), _ellipse(self.u, self.v - 1.75, 1.15, 0.62))
        width = 0.42 * self.person.head_width / 0.7
        self.canvas.fill(self.tone(self.skin * 0.8), _capsule(self.v - 0.95, self.u, 0.3, width))

    def hair_behind(self) -> None:
        person = self.person
        if person.hair_style not in (5, 7):
            return
        length = 0.95 if person.hair_style == 5 else 0.55
        width = person.head_width + 0.12 + 0.5 * person.hair_height
        top = -0.35
        inside = _capsule(self.v - (top + length / 2), self.u, length / 2 + 0.1, width)
        self.canvas.fill(self.tone(self.hair * 0.8), inside)

    def ears(self) -> None:
        person, yaw = self.person, self.shot.yaw
        for side in (-1, 1):
            # The ear on the side that the head turns to disappears behind it.
            shown = person.head_width + 0.02 - 0.16 * max(0.0, side * yaw)
            u = self.u - (side * shown)
            v = self.v - person.ear_v
            distance = _ellipse(u, v, 0.55 * person.ear_size + 0.02, person.ear_size)
            self.canvas.fill(self.tone(self.skin * 0.9), distance)

    def outline(self) -> _Plane:
        """Return the head's signed distance, (H, W)."""
        person = self.person
        below = _clipped(self.v * (1 / person.head_height))
        width = person.head_width * (1 - person.jaw * below * below)
        power = person.squareness
        radius = (np.abs(self.u / width) ** power + np.abs(self.v * (1 / person.head_height)) ** power) ** (1 / power)
        return (radius - 1) * person.head_width

    def head(self) -> None:
        distance = self.outline()
        self.inside = self.canvas.coverage(distance)
        self.canvas.lay(self.tone(self.skin), self.inside)
        # Rounder than a disc: darker towards the outline.
        edge = _clipped(1 + distance * 4.5)
        self.canvas.lay(self.tone(self.skin * 0.72), self.inside * edge * 0.6)
        if self.person.cheek > 0.15:
            for side in (-1, 1):
                u = self.front_u - (side * 0.36)
                soft = _clipped(1 - _length(u, self.front_v - 0.25) * 5)
                blush = self.skin * np.array([0.95, 0.72, 0.7], np.float32)
                self.canvas.lay(self.tone(blush), soft * self.inside * self.person.cheek)

    def beard(self) -> None:
        person, shot = self.person, self.shot
        tone = self.tone(self.hair * 0.9)
        if person.beard > 0:
            # From the ears round the chin, leaving the mouth free.
            edge = (person.mouth_v - 0.16) - 0.9 * np.abs(self.front_u) ** 2
            below = _clipped((self.front_v - edge) * 9)
            mouth = _ellipse(self.front_u, self.front_v - person.mouth_v, person.mouth_width, 0.1)
            free = 1 - self.canvas.coverage(mouth)
            self.canvas.lay(tone, below * free * self.inside * min(1, person.beard * shot.beard_grown))
        if person.moustache > 0:
            v = self.front_v - (person.mouth_v - 0.085) - 0.7 * self.front_u**2
            strength = min(1.0, person.moustache * shot.beard_grown)
            self.canvas.fill(tone, _capsule(self.front_u, v, 0.75 * person.mouth_width, 0.04), strength)

    def nose(self) -> None:
        person = self.person
        shade = self.tone(self.skin * (1 - 0.55 * person.nose_shade))
        # It stands out of the face, so it slides further than the rest.
        u = self.front_u - (0.12 * self.shot.yaw)
        top = person.eye_v + 0.04
        end = person.eye_v + person.nose_length + 0.08
        ridge_u = u - (0.45 * person.nose_width * (1 if self.shot.yaw >= 0 else -1))
        middle, half = (top + end) / 2, (end - top) / 2
        self.canvas.fill(shade, _capsule(self.front_v - middle, ridge_u, half, 0.018), 0.6)
        self.canvas.fill(shade, _capsule(u, self.front_v - end, 0.7 * person.nose_width, 0.03), 0.8)
        dark = self.tone(self.skin * 0.3)
        across = np.abs(u) - (0.62 * person.nose_width)
        self.canvas.fill(dark, _ellipse(across, self.front_v - (end + 0.012), 0.03, 0.022))

    def mouth(self) -> None:
        person, shot = self.person, self.shot
        u = self.front_u
        bend = (person.mouth_bend + shot.smile) / person.mouth_width**2
        # Both ends rise in a smile: v points down.
        v = self.front_v - person.mouth_v + bend * u * u
        lips = self.tone(_mix(_LIPS, person.lip_tone) * (1 - 0.5 * person.skin))
        height = person.lip_height + 0.6 * shot.mouth_open
        self.canvas.fill(lips, _ellipse(u, v, person.mouth_width * (1 + 1.2 * shot.smile), height + 0.012))
        opened = max(0.011, shot.mouth_open * 0.75)
        self.canvas.fill(self.tone(0.12), _ellipse(u, v, 0.86 * person.mouth_width, opened))

    def eyes(self) -> None:
        person, shot = self.person, self.shot
        # Both at once: outward from each eye's middle, the same on either side.
        u = np.abs(self.front_u) - person.eye_distance
        v = self.front_v - person.eye_v + person.eye_slant * u
        opened = person.eye_height * shot.eye_open
        white = self.canvas.coverage(_ellipse(u, v, person.eye_width, opened))
        self.canvas.lay(self.tone(0.93), white)
        # They look the same way, which is outward for one and inward for the other.
        iris_u = u - np.sign(self.front_u) * (shot.gaze[0] * 0.5 * person.eye_width)
        iris_v = v - shot.gaze[1] * 0.4 * person.eye_height
        away = _length(iris_u, iris_v)
        colour = _mix(_IRIS, person.iris_tone)
        self.canvas.lay(self.tone(colour), self.canvas.coverage(away - person.iris) * white)
        self.canvas.lay(self.tone(0.03), self.canvas.coverage(away - 0.5 * person.iris) * white)
        # The upper lid, along the ellipse's upper edge.
        across = u * (1 / person.eye_width)
        lid = v + opened * np.sqrt(_clipped(1 - across * across))
        self.canvas.fill(self.tone(0.12), _capsule(u, lid, person.eye_width, 0.017), 0.85)

    def brows(self) -> None:
        person, shot = self.person, self.shot
        height = person.eye_v - person.brow_gap - shot.brow_raise
        u = np.abs(self.front_u) - (person.eye_distance + 0.01)
        v = self.front_v - height + person.brow_angle * u + u * u
        colour = self.hair * 0.75 + person.brow_tone * 0.3
        self.canvas.fill(self.tone(colour), _capsule(u, v, person.brow_length, person.brow_thickness))

    def marks(self) -> None:
        person = self.person
        for at_u, at_v, radius in person.moles:
            away = _length(self.front_u - at_u, self.front_v - at_v)
            self.canvas.fill(self.tone(self.skin * 0.35), away - radius)
        if person.wrinkles > 0:
            across = np.abs(self.front_u) - (person.mouth_width + 0.07)
            v = self.front_v - (person.mouth_v - 0.12)
            self.canvas.fill(self.tone(self.skin * 0.6), _capsule(v, across - 0.4 * v, 0.13, 0.012), person.wrinkles)

    def hair_before(self) -> None:
        person = self.person
        if person.hair_style == 0:
            return
        grown = person.hair_height + self.shot.hair_grown
        top = _ellipse(self.u, self.v + 0.02, person.head_width + 0.45 * grown + 0.02, person.head_height + grown)
        if person.hair_style == 6:
            angle = np.arctan2(self.v, self.u)
            top = top - 0.055 * (1 + np.sin(angle * 17))
        line = self.hairline()
        self.canvas.lay(self.tone(self.hair), self.canvas.coverage(np.maximum(top, line)))

    def hairline(self) -> _Plane:
        """Return the distance below the lower edge of the hair, (H, W)."""
        person = self.person
        u, v = self.front_u, self.v
        height = person.hairline
        match person.hair_style:
            case 1:  # receding: bare corners, a tongue in the middle
                return v - height + 0.1 + 0.5 * np.abs(np.abs(u) - 0.12) - u * u
            case 3:  # fringe: low and straight, the temples covered
                return v - height - 0.12 - 0.6 * np.abs(u) ** 3
            case 4:  # parted: falls away to both sides of a line
                return v - height - 0.75 * np.abs(u - person.parting) + 0.1
            case 5 | 7:  # long: a curtain
                return v - height - 1.5 * u * u - 0.3 * np.abs(u - person.parting)
            case 6:
                return v - height - 0.9 * u * u - 0.03 * np.sin(u * 20)
            case _:
                return v - height - 0.8 * u * u

    def glasses(self) -> None:
        person, shot = self.person, self.shot
        if not person.glasses or not shot.glasses_on:
            return
        tone = self.tone(0.08)
        thickness = 0.034 if person.glasses == 3 else 0.018
        across = np.abs(self.front_u) - person.eye_distance
        v = self.front_v - (person.eye_v + 0.02)
        size = min(person.glasses_size, person.eye_distance - 0.02)
        if person.glasses == 1:
            rim = _length(across, v) - size
        else:
            rim = np.maximum(np.abs(across) - size, np.abs(v) - (0.72 * size))
        self.canvas.fill(tone, np.abs(rim) - thickness)
        self.canvas.fill(tone, _capsule(self.front_u, v, max(0.0, person.eye_distance - size), 0.6 * thickness))

    def occlusion(self) -> None:
        if self.shot.occlusion is None:
            return
        angle, offset, half, tone = self.shot.occlusion
        across = self.x * math.cos(angle) + self.y * math.sin(angle) - offset
        self.canvas.fill(self.tone(tone), np.abs(across) - half)

    def light(self) -> None:
        shot = self.shot
        direction = math.cos(shot.light_angle), math.sin(shot.light_angle)
        ramp = self.x * direction[0] + self.y * direction[1]
        angle, offset, strength = shot.shadow
        side = self.x * math.cos(angle) + self.y * math.sin(angle) - offset
        shade = 1 - strength * _clipped(side * 6 + 0.5)
        lit = shot.gain * (1 + shot.light_strength * ramp) * shade
        tones = _clipped(self.canvas.tones * lit)
        self.canvas.tones = tones**shot.gamma


def _blurred(tones: _Plane, amount: float) -> _Plane:
    """Average each pixel with its neighbours, `amount` of it from either side, along both axes; edges repeat."""
    if amount <= 0:
        return tones
    for axis in (1, 2):
        lines = tones.swapaxes(0, axis)
        mixed = lines * (1 - 2 * amount)
        mixed[1:] += amount * lines[:-1]
        mixed[:-1] += amount * lines[1:]
        mixed[0] += amount * lines[0]
        mixed[-1] += amount * lines[-1]
        tones = mixed.swapaxes(0, axis)
    return tones


def draw_face(person: int, photo: int, *, size: int = 48, seed: int = 0, channels: int = 1) -> NDArray[np.uint8]:
    """Draw one photo of one person; a pure function of its arguments.

    Args:
        person: who; any number from 0.
        photo: which photo of that person; any number from 0.
        size: height and width in pixels.
        seed: another seed is another population.
        channels: 1 for grey, 3 for RGB.

    Returns:
        (H, W, C) uint8.

    Example:
        >>> draw_face(3, 0, size=32).shape, bool((draw_face(3, 0) == draw_face(3, 0)).all())
        ((32, 32, 1), True)
    """
    shot_rng = generator(seed, "photo", epoch=person, index=photo)
    who = _draw_person(generator(seed, "identity", index=person))
    shot = _draw_shot(shot_rng)
    tones = _blurred(_Artist(who, shot, size, channels).draw(), shot.blur * size / 48)
    tones = tones + shot.noise * shot_rng.standard_normal(tones.shape, dtype=np.float32)
    pixels = (_clipped(tones) * 255 + 0.5).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def drawn_faces(
    people: int = 40, photos: int = 10, size: int = 48, seed: int = 0, first_person: int = 0, channels: int = 1
) -> datasets.Dataset:
    """Draw photos of people who do not exist: columns ``image`` and ``label``, the name of who it is.

    Person and photo are pure functions of the seed and their numbers: 400 people hold the first 40 unchanged, and
    people from 1000 on (``first_person=1000``) are nobody from the first 1000: a test set that shares no identity.

    Pixels at 32 x 32, the first 50 principal components and logistic regression, accuracy on 10 photos of each person
    (mean of 3 draws): 20 people .19 with 1 photo and .53 with 5; 40 people .12 and .44. Nearest mean, 40 people with 5:
    .16. Two photos of one person differ by 10.2 (root of summed squares, pixels from 0 to 1), of two people by 12.3.

    Args:
        people: how many people.
        photos: how many photos of each.
        size: height and width in pixels, at least 16.
        seed: another seed is another population.
        first_person: number of the first one.
        channels: 1 for grey, 3 for RGB.

    Raises:
        DataError: a number is too small.

    Example:
        >>> data = drawn_faces(people=2, photos=3, size=32)
        >>> len(data), data.features["label"].names, data[5]["label"]
        (6, ['person00000', 'person00001'], 1)
    """
    _at_least("people", people, 1)
    _at_least("photos", photos, 1)
    _at_least("size", size, 16)
    _at_least("first_person", first_person, 0)
    if channels not in (1, 3):
        raise DataError(f"drawn_faces: channels is 1 (grey) or 3 (RGB); found {channels}.")
    numbers = range(first_person, first_person + people)
    pictures = [
        draw_face(person, photo, size=size, seed=seed, channels=channels)
        for person in numbers
        for photo in range(photos)
    ]
    labels = np.repeat(np.arange(people), photos)
    return _image_dataset(pictures, labels, [f"person{number:05d}" for number in numbers])


# --- scikit-learn's ---------------------------------------------------------------------------------------------------


def digits() -> datasets.Dataset:
    """Return scikit-learn's 1,797 handwritten digits, 8 x 8 grey: columns ``image`` and ``label``.

    Reference: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # 17 grey levels, 0 to 16.
    pictures = [(image * (255 / 16)).round().astype(np.uint8)[..., None] for image in bunch.images]
    return _image_dataset(pictures, bunch.target, [str(name) for name in bunch.target_names])


_TABLES: Final = ("breast_cancer", "digits", "iris", "wine")


def features(name: str = "iris") -> datasets.Dataset:
    """Return one of scikit-learn's bundled tables: columns ``features`` (float32, of fixed length) and ``label``.

    Args:
        name: ``"iris"``, ``"wine"``, ``"breast_cancer"`` or ``"digits"``.

    Raises:
        DataError: there is no such table.

    Example:
        >>> features("wine").features["features"].length
        13
    """
    if name not in _TABLES:
        hint = did_you_mean(name, _TABLES)
        raise DataError(f"features: there is no table {name!r}; there are {', '.join(_TABLES)}.{hint}")
    import sklearn.datasets

    bunch = getattr(sklearn.datasets, f"load_{name}")()
    values = np.asarray(bunch.data, dtype=np.float32)
    columns = datasets.Features(
        {
            "features": datasets.List(datasets.Value("float32"), length=values.shape[1]),
            "label": datasets.ClassLabel(names=[str(label) for label in bunch.target_names]),
        }
    )
    rows = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    return _dataset({"features": rows, "label": pa.array(bunch.target, pa.int64())}, columns)


# --- by name ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Builtin:
    """A built-in data set: what makes it, and the type of each option it takes."""

    make: Callable[..., datasets.Dataset]
    options: Mapping[str, type]


BUILTINS: Final[Mapping[str, Builtin]] = MappingProxyType(
    {
        "digits": Builtin(digits, {}),
        "drawn_faces": Builtin(
            drawn_faces,
            {"people": int, "photos": int, "size": int, "seed": int, "first_person": int, "channels": int},
        ),
        "features": Builtin(features, {"name": str}),
    }
)


def load_builtin(name: str, options: Mapping[str, Option]) -> datasets.Dataset:
    """Make a built-in data set by its name.

    Args:
        name: a key of `BUILTINS`.
        options: its arguments.

    Raises:
        DataError: there is no such built-in, or it has no such option, or an option has the wrong type.

    Example:
        >>> len(load_builtin("features", {"name": "iris"}))
        150
    """
    builtin = BUILTINS.get(name)
    if builtin is None:
        hint = did_you_mean(name, BUILTINS)
        raise DataError(f"there is no built-in data set {name!r}; there are {', '.join(BUILTINS)}.{hint}")
    for option, value in options.items():
        expected = builtin.options.get(option)
        if expected is None:
            allowed = ", ".join(builtin.options) or "none"
            hint = did_you_mean(option, builtin.options)
            raise DataError(f"builtin:{name} has no option {option!r}; allowed are {allowed}.{hint}")
        if type(value) is not expected:
            raise DataError(f"builtin:{name}: {option} must be {expected.__name__}, found {value!r}.")
    return builtin.make(**options)


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise DataError(f"drawn_faces: {name} must be at least {least}, found {value}.")


def _image_dataset(pictures: list[NDArray[np.uint8]], labels: NDArray[np.int64], names: list[str]) -> datasets.Dataset:
    """Make a data set of (H, W, C) pictures, encoded as PNG, and their classes."""
    columns = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    contents = pa.array([_png(picture) for picture in pictures], pa.binary())
    images = pa.StructArray.from_arrays([contents, pa.nulls(len(pictures), pa.string())], ["bytes", "path"])
    return _dataset({"image": images, "label": pa.array(labels, pa.int64())}, columns)


def _dataset(arrays: Mapping[str, pa.Array], columns: datasets.Features) -> datasets.Dataset:
    return datasets.Dataset(pa.table(dict(arrays)), info=datasets.DatasetInfo(features=columns))


def _png(picture: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
