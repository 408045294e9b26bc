"""What a drawn face is drawn from: who it is, and how the photo came out."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

__all__ = ["Person", "Shot", "draw_person", "draw_shot"]


@dataclasses.dataclass(frozen=True)
class Person:
    """Shape and tone of one face, in units of half a head's height; v points down, the head's centre is the origin.

    Example:
        >>> from auxtasks.seeding import generator
        >>> person: Person = draw_person(generator(0, "person"))
        >>> shot: Shot = draw_shot(generator(0, "shot"))
        >>> 0 <= person.skin <= 1, person.hair_style in range(8), shot.gain > 0
        (True, True, True)
    """

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


def draw_person(rng: np.random.Generator) -> Person:
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
    return Person(
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


@dataclasses.dataclass(frozen=True)
class Shot:
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


def draw_shot(rng: np.random.Generator) -> Shot:
    """Draw how the photo came out."""

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(rng.random())

    def around(spread: float) -> float:
        return spread * float(rng.standard_normal())

    return Shot(
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
