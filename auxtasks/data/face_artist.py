"""The drawing of one face, layer by layer, from the backdrop to the light."""

from __future__ import annotations

import math

import numpy as np

from auxtasks.data.drawing import Canvas, Plane, capsule, clipped, ellipse, grid, mix, norm
from auxtasks.data.face_parameters import Person, Shot

__all__ = ["paint"]

_SKIN = np.array([[0.97, 0.84, 0.75], [0.86, 0.66, 0.52], [0.60, 0.41, 0.29], [0.33, 0.21, 0.15]], dtype=np.float32)
_HAIR = np.array([[0.05, 0.04, 0.04], [0.26, 0.15, 0.09], [0.50, 0.31, 0.16], [0.86, 0.72, 0.45]], dtype=np.float32)
_IRIS = np.array([[0.16, 0.09, 0.05], [0.30, 0.24, 0.12], [0.28, 0.42, 0.58]], dtype=np.float32)
_LIPS = np.array([[0.80, 0.45, 0.42], [0.58, 0.20, 0.22]], dtype=np.float32)
_LUMA = np.array([[0.299, 0.587, 0.114]], dtype=np.float32)


class _Artist:
    """Draws one photo; each method adds a layer, and `draw` says in which order."""

    def __init__(self, person: Person, shot: Shot, size: int, channels: int) -> None:
        self.person, self.shot, self.channels = person, shot, channels
        self.x, self.y = grid(size)
        cos, sin = math.cos(shot.roll) / shot.scale, math.sin(shot.roll) / shot.scale
        x, y = self.x - shot.shift[0], self.y - (shot.shift[1] + 0.06)
        self.u = x * cos + y * sin
        self.v = y * cos - x * sin
        # A head that turns: what lies on its front slides sideways, and is narrowed.
        turn = shot.yaw
        self.front_u = (self.u - turn * 0.24) * (1 / (1 - 0.22 * abs(shot.yaw)))
        self.front_v = self.v - (0.07 * shot.pitch)
        self.skin = mix(_SKIN, person.skin)
        self.hair = mix(_HAIR, person.hair_tone)
        tones = np.full((channels, size, size), shot.backdrop[0], dtype=np.float32)
        self.canvas = Canvas(tones, pixel=2 / size / shot.scale)

    def tone(self, colour: Plane | float) -> Plane:
        """Return a colour as (C, 1, 1): itself, or its grey."""
        if isinstance(colour, float):
            return np.full((self.channels, 1, 1), colour, dtype=np.float32)
        values = colour if self.channels == 3 else _LUMA @ colour
        return values.reshape(self.channels, 1, 1)

    def draw(self) -> Plane:
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
        self.canvas.fill(self.tone(blob), norm(self.x - u, self.y - v) - radius, 0.8)

    def neck(self) -> None:
        self.canvas.fill(self.tone(self.shot.clothes), ellipse(self.u, self.v - 1.75, 1.15, 0.62))
        width = 0.42 * self.person.head_width / 0.7
        self.canvas.fill(self.tone(self.skin * 0.8), capsule(self.v - 0.95, self.u, 0.3, width))

    def hair_behind(self) -> None:
        person = self.person
        if person.hair_style not in (5, 7):
            return
        length = 0.95 if person.hair_style == 5 else 0.55
        width = person.head_width + 0.12 + 0.5 * person.hair_height
        top = -0.35
        inside = capsule(self.v - (top + length / 2), self.u, length / 2 + 0.1, width)
        self.canvas.fill(self.tone(self.hair * 0.8), inside)

    def ears(self) -> None:
        person, yaw = self.person, self.shot.yaw
        for side in (-1, 1):
            # The ear on the side that the head turns to disappears behind it.
            shown = person.head_width + 0.02 - 0.16 * max(0.0, side * yaw)
            u = self.u - (side * shown)
            v = self.v - person.ear_v
            distance = ellipse(u, v, 0.55 * person.ear_size + 0.02, person.ear_size)
            self.canvas.fill(self.tone(self.skin * 0.9), distance)

    def outline(self) -> Plane:
        """Return the head's signed distance, (H, W)."""
        person = self.person
        below = clipped(self.v * (1 / person.head_height))
        width = person.head_width * (1 - person.jaw * below * below)
        power = person.squareness
        radius = (np.abs(self.u / width) ** power + np.abs(self.v * (1 / person.head_height)) ** power) ** (1 / power)
        return (radius - 1) * person.head_width

    def head(self) -> None:
        distance = self.outline()
        self.inside = self.canvas.coverage(distance)
        self.canvas.lay(self.tone(self.skin), self.inside)
        # Rounder than a disc: darker towards the outline.
        edge = clipped(1 + distance * 4.5)
        self.canvas.lay(self.tone(self.skin * 0.72), self.inside * edge * 0.6)
        if self.person.cheek > 0.15:
            for side in (-1, 1):
                u = self.front_u - (side * 0.36)
                soft = clipped(1 - norm(u, self.front_v - 0.25) * 5)
                blush = self.skin * np.array([0.95, 0.72, 0.7], np.float32)
                self.canvas.lay(self.tone(blush), soft * self.inside * self.person.cheek)

    def beard(self) -> None:
        person, shot = self.person, self.shot
        tone = self.tone(self.hair * 0.9)
        if person.beard > 0:
            # From the ears round the chin, leaving the mouth free.
            edge = (person.mouth_v - 0.16) - 0.9 * np.abs(self.front_u) ** 2
            below = clipped((self.front_v - edge) * 9)
            mouth = ellipse(self.front_u, self.front_v - person.mouth_v, person.mouth_width, 0.1)
            free = 1 - self.canvas.coverage(mouth)
            self.canvas.lay(tone, below * free * self.inside * min(1, person.beard * shot.beard_grown))
        if person.moustache > 0:
            v = self.front_v - (person.mouth_v - 0.085) - 0.7 * self.front_u**2
            strength = min(1.0, person.moustache * shot.beard_grown)
            self.canvas.fill(tone, capsule(self.front_u, v, 0.75 * person.mouth_width, 0.04), strength)

    def nose(self) -> None:
        person = self.person
        shade = self.tone(self.skin * (1 - 0.55 * person.nose_shade))
        # It stands out of the face, so it slides further than the rest.
        u = self.front_u - (0.12 * self.shot.yaw)
        top = person.eye_v + 0.04
        end = person.eye_v + person.nose_length + 0.08
        ridge_u = u - (0.45 * person.nose_width * (1 if self.shot.yaw >= 0 else -1))
        middle, half = (top + end) / 2, (end - top) / 2
        self.canvas.fill(shade, capsule(self.front_v - middle, ridge_u, half, 0.018), 0.6)
        self.canvas.fill(shade, capsule(u, self.front_v - end, 0.7 * person.nose_width, 0.03), 0.8)
        dark = self.tone(self.skin * 0.3)
        across = np.abs(u) - (0.62 * person.nose_width)
        self.canvas.fill(dark, ellipse(across, self.front_v - (end + 0.012), 0.03, 0.022))

    def mouth(self) -> None:
        person, shot = self.person, self.shot
        u = self.front_u
        bend = (person.mouth_bend + shot.smile) / person.mouth_width**2
        # Both ends rise in a smile: v points down.
        v = self.front_v - person.mouth_v + bend * u * u
        lips = self.tone(mix(_LIPS, person.lip_tone) * (1 - 0.5 * person.skin))
        height = person.lip_height + 0.6 * shot.mouth_open
        self.canvas.fill(lips, ellipse(u, v, person.mouth_width * (1 + 1.2 * shot.smile), height + 0.012))
        opened = max(0.011, shot.mouth_open * 0.75)
        self.canvas.fill(self.tone(0.12), ellipse(u, v, 0.86 * person.mouth_width, opened))

    def eyes(self) -> None:
        person, shot = self.person, self.shot
        # Both at once: outward from each eye's middle, the same on either side.
        u = np.abs(self.front_u) - person.eye_distance
        v = self.front_v - person.eye_v + person.eye_slant * u
        opened = person.eye_height * shot.eye_open
        white = self.canvas.coverage(ellipse(u, v, person.eye_width, opened))
        self.canvas.lay(self.tone(0.93), white)
        # They look the same way, which is outward for one and inward for the other.
        iris_u = u - np.sign(self.front_u) * (shot.gaze[0] * 0.5 * person.eye_width)
        iris_v = v - shot.gaze[1] * 0.4 * person.eye_height
        away = norm(iris_u, iris_v)
        colour = mix(_IRIS, person.iris_tone)
        self.canvas.lay(self.tone(colour), self.canvas.coverage(away - person.iris) * white)
        self.canvas.lay(self.tone(0.03), self.canvas.coverage(away - 0.5 * person.iris) * white)
        # The upper lid, along the ellipse's upper edge.
        across = u * (1 / person.eye_width)
        lid = v + opened * np.sqrt(clipped(1 - across * across))
        self.canvas.fill(self.tone(0.12), capsule(u, lid, person.eye_width, 0.017), 0.85)

    def brows(self) -> None:
        person, shot = self.person, self.shot
        height = person.eye_v - person.brow_gap - shot.brow_raise
        u = np.abs(self.front_u) - (person.eye_distance + 0.01)
        v = self.front_v - height + person.brow_angle * u + u * u
        colour = self.hair * 0.75 + person.brow_tone * 0.3
        self.canvas.fill(self.tone(colour), capsule(u, v, person.brow_length, person.brow_thickness))

    def marks(self) -> None:
        person = self.person
        for at_u, at_v, radius in person.moles:
            away = norm(self.front_u - at_u, self.front_v - at_v)
            self.canvas.fill(self.tone(self.skin * 0.35), away - radius)
        if person.wrinkles > 0:
            across = np.abs(self.front_u) - (person.mouth_width + 0.07)
            v = self.front_v - (person.mouth_v - 0.12)
            self.canvas.fill(self.tone(self.skin * 0.6), capsule(v, across - 0.4 * v, 0.13, 0.012), person.wrinkles)

    def hair_before(self) -> None:
        person = self.person
        if person.hair_style == 0:
            return
        grown = person.hair_height + self.shot.hair_grown
        top = ellipse(self.u, self.v + 0.02, person.head_width + 0.45 * grown + 0.02, person.head_height + grown)
        if person.hair_style == 6:
            angle = np.arctan2(self.v, self.u)
            top = top - 0.055 * (1 + np.sin(angle * 17))
        line = self.hairline()
        self.canvas.lay(self.tone(self.hair), self.canvas.coverage(np.maximum(top, line)))

    def hairline(self) -> Plane:
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
            rim = norm(across, v) - size
        else:
            rim = np.maximum(np.abs(across) - size, np.abs(v) - (0.72 * size))
        self.canvas.fill(tone, np.abs(rim) - thickness)
        self.canvas.fill(tone, capsule(self.front_u, v, max(0.0, person.eye_distance - size), 0.6 * thickness))

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
        shade = 1 - strength * clipped(side * 6 + 0.5)
        lit = shot.gain * (1 + shot.light_strength * ramp) * shade
        tones = clipped(self.canvas.tones * lit)
        self.canvas.tones = tones**shot.gamma


def paint(person: Person, shot: Shot, size: int, channels: int) -> Plane:
    """Return the photo of a person, (C, H, W) from 0 to 1, as yet without blur and noise.

    Example:
        >>> from auxtasks.data.face_parameters import draw_person, draw_shot
        >>> from auxtasks.seeding import generator
        >>> person, shot = draw_person(generator(0, "person")), draw_shot(generator(0, "shot"))
        >>> paint(person, shot, size=24, channels=1).shape
        (1, 24, 24)
    """
    return _Artist(person, shot, size, channels).draw()
