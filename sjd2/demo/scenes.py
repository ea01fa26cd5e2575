"""Captioned 64x64 pictures: shaded shapes on textured ground, with a held-out set of combinations.

The pictures are small enough for a three-million-parameter model and busy enough to be a fair test:
the ground is lit, textured and unpredictable from one 4x4 patch to the next, as in a photograph.

Captions (module `captions`) are lower-case words and single spaces; `VOCABULARY` lists every word.

Held out of training is one *combination* in about eight, by a checksum of its name (`is_held_out`):
(size, colour, shape) of a single object, the unordered pair of (colour, shape) of two related
objects, and (count, colour, shape) of equal objects. Every colour of every shape still occurs in
training, though not in every kind of scene: no blue ring stands alone there, but many in pairs.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sjd2.demo.captions import (
    COLOUR_NAMES,
    RELATIONS,
    SHAPES,
    SIZE_WORDS,
    VOCABULARY,
    Facts,
    Noun,
    is_held_out,
    parse_caption,
    word_caption,
)

__all__ = [
    "COLOURS",
    "RELATIONS",
    "SHAPES",
    "SIDE",
    "VOCABULARY",
    "Facts",
    "Noun",
    "Scene",
    "Thing",
    "held_out_captions",
    "is_held_out",
    "outline",
    "parse_caption",
    "render",
    "sample_scene",
    "signed_distance",
]

Array = npt.NDArray[np.floating[Any]]
Split = Literal["train", "held_out"]

SIDE = 64
COLOURS = {
    "red": (0.85, 0.09, 0.12),
    "orange": (0.98, 0.49, 0.05),
    "yellow": (0.97, 0.86, 0.12),
    "green": (0.12, 0.66, 0.25),
    "blue": (0.11, 0.36, 0.92),
    "purple": (0.49, 0.17, 0.80),
    "pink": (0.98, 0.42, 0.71),
}

RADII = {"small": (8.5, 10.0), "medium": (9.5, 12.0), "large": (14.0, 17.0)}
RADIUS_OF_THREE = (9.0, 10.0)
REACH = 1.15  # no shape extends beyond this many radii from its centre
GAP = 4.0  # least distance in pixels between two objects
BORDER = 2.0  # least distance in pixels between an object and the edge of the picture


@dataclass(frozen=True)
class Thing:
    """One object of a scene; x, y and radius in pixels, angle in radians."""

    colour: str
    shape: str
    size: str
    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True)
class Scene:
    """A picture before it is drawn: `render` makes the pixels, `facts` is what it shows."""

    things: tuple[Thing, ...]
    caption: str
    facts: Facts
    background: str
    seed: int


# Sampling: draw a combination of the split, then places for its objects.


def _sample_facts(rng: random.Random) -> Facts:
    nouns = list(product(COLOUR_NAMES, SHAPES))
    kind = rng.choices(("single", "pair", "equals"), weights=(3, 4, 3))[0]
    if kind == "pair":
        first, second = rng.sample(nouns, 2)
        return Facts((Noun(*first), Noun(*second)), 2, rng.choice(RELATIONS))
    noun = rng.choice(nouns)
    if kind == "single":
        return Facts((Noun(*noun, size=rng.choice(tuple(SIZE_WORDS))),), 1)
    return Facts((Noun(*noun),), rng.choice((2, 3)))


def _place(rng: random.Random, reaches: list[float]) -> list[tuple[float, float]] | None:
    """Random places for discs of these reaches, or None where the draw lets two come too close."""
    places: list[tuple[float, float]] = []
    for i, reach in enumerate(reaches):
        low, high = BORDER + reach, SIDE - BORDER - reach
        x, y = rng.uniform(low, high), rng.uniform(low, high)
        if any(math.dist((x, y), places[j]) < reach + reaches[j] + GAP for j in range(i)):
            return None
        places.append((x, y))
    return places


def _stands(relation: str | None, places: list[tuple[float, float]]) -> bool:
    """Whether the first place is clearly `relation` the second: far more along than across."""
    if relation is None:
        return True
    dx, dy = places[1][0] - places[0][0], places[1][1] - places[0][1]
    along = {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[relation]
    across = dy if relation in ("left of", "right of") else dx
    return along > 2 * abs(across)


def _arrange(rng: random.Random, facts: Facts) -> tuple[Thing, ...]:
    nouns = facts.nouns * (facts.count // len(facts.nouns))
    sizes = [noun.size or "medium" for noun in nouns]
    places: list[tuple[float, float]] | None = None
    while places is None or not _stands(facts.relation, places):
        ranges = [RADIUS_OF_THREE if len(nouns) == 3 else RADII[size] for size in sizes]
        radii = [rng.uniform(*limits) for limits in ranges]
        places = _place(rng, [REACH * radius for radius in radii])
    return tuple(
        Thing(noun.colour, noun.shape, size, x, y, radius, rng.uniform(-0.18, 0.18))
        for noun, size, (x, y), radius in zip(nouns, sizes, places, radii, strict=True)
    )


def sample_scene(seed: int, split: Split) -> Scene:
    """A random scene of one split, the same for the same arguments.

    Args:
        seed: any integer.
        split: "train", or "held_out" for the combinations that training never shows.
    Returns:
        Scene: its objects at least GAP pixels apart and BORDER pixels inside the picture.
    Raises:
        ValueError: an unknown split.
    """
    if split not in ("train", "held_out"):
        raise ValueError(f"split must be 'train' or 'held_out', not {split!r}")
    rng = random.Random(f"{split} {seed}")
    facts = _sample_facts(rng)
    while is_held_out(facts) != (split == "held_out"):
        facts = _sample_facts(rng)
    ground = rng.choice(tuple(_TEXTURES))
    return Scene(_arrange(rng, facts), word_caption(rng, facts, ground), facts, ground, seed)


def held_out_captions(n: int, seed: int = 0) -> list[str]:
    """n distinct captions of held-out combinations, the same for the same arguments."""
    captions: dict[str, None] = {}
    number = 0
    while len(captions) < n:
        captions[sample_scene(seed * 1_000_003 + number, "held_out").caption] = None
        number += 1
    return list(captions)


# Drawing. Fields are [64, 64] over (row, column); pictures are [64, 64, 3] in 0..1.

_AXIS: Array = np.arange(SIDE, dtype=np.float32) + np.float32(0.5)
_X, _Y = np.meshgrid(_AXIS, _AXIS)


@cache
def _spread(cells: int) -> Array:
    """[64, cells] Gaussian weights, rows of unit norm so that spread noise keeps unit variance."""
    knots = np.linspace(0, SIDE, cells, dtype=np.float32)
    weights: Array = np.exp(-(((_AXIS[:, None] - knots) * (cells - 1) / SIDE / 0.6) ** 2))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    return weights


def _noise(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """Smooth noise of unit variance with about `rows` by `columns` independent cells."""
    return _spread(rows) @ rng.standard_normal((rows, columns), np.float32) @ _spread(columns).T


def _plaster(rng: np.random.Generator) -> Array:
    tone: Array = 0.10 * _noise(rng, 6, 6) + 0.16 * _noise(rng, 13, 13) + 0.09 * _noise(rng, 26, 26)
    return tone


def _wood(rng: np.random.Generator) -> Array:
    period, start = rng.uniform(13, 19), rng.uniform(0, 19)
    plank = ((_Y + start) / period).astype(int)
    seam = np.abs((_Y + start) / period - plank - 0.5) * period
    level, shift = rng.normal(0, 0.12, 8)[plank], rng.uniform(0, 7, 8)[plank]
    rings = np.sin((_Y + 2.4 * _noise(rng, 5, 4)) * rng.uniform(0.9, 1.3) + shift)
    grain = 0.13 * rings + 0.13 * _noise(rng, 26, 6) + 0.05 * _noise(rng, 26, 26)
    tone: Array = grain + level - 0.5 * np.clip(seam - period / 2 + 1.3, 0, 1)
    return tone.T if rng.random() < 0.5 else tone


def _cloth(rng: np.random.Generator) -> Array:
    turn, wave = rng.uniform(-0.5, 0.5), 2 * np.pi / rng.uniform(9, 14)
    u = _X * np.cos(turn) + _Y * np.sin(turn) + 1.2 * _noise(rng, 5, 5)
    v = _Y * np.cos(turn) - _X * np.sin(turn) + 1.2 * _noise(rng, 5, 5)
    stripes = np.clip(1.8 * np.sin(u * wave), -1, 1) + np.clip(1.8 * np.sin(v * wave), -1, 1)
    tone: Array = 0.14 * stripes + 0.10 * _noise(rng, 14, 14) + 0.08 * _noise(rng, 28, 28)
    return tone


def _gravel(rng: np.random.Generator) -> Array:
    """Pebbles: each pixel has the shade of the nearest point on a jittered grid, seams are dark."""
    cell = rng.uniform(6.5, 8.5)
    points = rng.uniform(0, 1, (16, 16, 3)).astype(np.float32)
    row, column = (_Y / cell).astype(int) + 1, (_X / cell).astype(int) + 1
    nearest, second, shade = np.full_like(_X, 99), np.full_like(_X, 99), np.zeros_like(_X)
    for i, j in product((-1, 0, 1), repeat=2):
        point = points[row + i, column + j]
        away = np.hypot(
            _Y / cell + 1 - row - i - point[..., 0], _X / cell + 1 - column - j - point[..., 1]
        )
        closer = away < nearest
        second = np.where(closer, nearest, np.minimum(second, away))
        nearest, shade = np.where(closer, away, nearest), np.where(closer, point[..., 2], shade)
    dome = np.clip(2.2 * (second - nearest), 0, 1)
    tone: Array = 0.55 * (shade - 0.5) + 0.36 * (dome - 0.7) + 0.06 * _noise(rng, 24, 24)
    return tone


def _brick(rng: np.random.Generator) -> Array:
    height, width = rng.uniform(8, 11), rng.uniform(16, 21)
    y = (_Y + rng.uniform(0, height)) / height + 0.05 * _noise(rng, 4, 4)
    row = np.maximum(y.astype(int), 0)
    x = (_X + rng.uniform(0, width)) / width + row % 2 / 2 + 0.03 * _noise(rng, 6, 6)
    column = np.maximum(x.astype(int), 0)
    seam = np.maximum(
        (np.abs(y - row - 0.5) - 0.5) * height, (np.abs(x - column - 0.5) - 0.5) * width
    )
    mortar = np.clip(seam + 1.8, 0, 1)
    face = rng.normal(-0.06, 0.12, (12, 8))[row, column] + 0.12 * _noise(rng, 15, 15)
    tone: Array = face * (1 - mortar) + 0.28 * mortar + 0.06 * _noise(rng, 26, 26)
    return tone


def _marble(rng: np.random.Generator) -> Array:
    veins = 0.6 - np.exp(-4 * np.abs(_noise(rng, 7, 7)))
    fine = 0.4 - np.exp(-5 * np.abs(_noise(rng, 12, 12)))
    body = 0.13 * _noise(rng, 10, 10) + 0.08 * _noise(rng, 26, 26)
    tone: Array = 0.06 + 0.34 * veins + 0.24 * fine + body
    return tone


_TEXTURES: dict[str, Callable[[np.random.Generator], Array]] = {
    "plaster": _plaster,
    "wood": _wood,
    "cloth": _cloth,
    "gravel": _gravel,
    "brick": _brick,
    "marble": _marble,
}
_HUES = {"wood": (0.06, 0.11), "brick": (0.01, 0.06)}  # in turns; the other grounds take any hue
_SATURATIONS = {"wood": (0.18, 0.30), "brick": (0.12, 0.26)}


def _tint(hue: float, saturation: float, value: float) -> Array:
    """A pale RGB colour [3]; saturation stays low so that objects stand out by chroma alone."""
    waves = 0.5 + 0.5 * np.cos(2 * np.pi * (hue - np.array([0, 1 / 3, 2 / 3])))
    return (value * (1 - saturation * (1 - waves))).astype(np.float32)


def _draw_ground(rng: np.random.Generator, ground: str, light: tuple[float, float]) -> Array:
    tone = _TEXTURES[ground](rng)
    slope_y, slope_x = np.gradient(tone)
    tone = np.clip(0.5 + tone - 0.5 * (slope_x * light[0] + slope_y * light[1]), 0, 1)
    hue = rng.uniform(*_HUES.get(ground, (0, 1)))
    saturation = rng.uniform(*_SATURATIONS.get(ground, (0.04, 0.2)))
    value = rng.uniform(0.62, 0.85)
    dark = _tint(hue + rng.normal(0, 0.08), saturation, value * rng.uniform(0.3, 0.5))
    bright = _tint(hue, saturation * 0.8, value)
    return dark + (bright - dark) * tone[..., None].astype(np.float32)


def signed_distance(shape: str, x: Array, y: Array, radius: float) -> Array:
    """Distance in pixels to the outline of a shape centred on the origin, negative inside."""
    away, aside = np.hypot(x, y), np.abs(x)
    long, wide = np.maximum(aside, np.abs(y)), np.minimum(aside, np.abs(y))
    if shape == "circle":
        return away - radius
    if shape == "ring":
        return np.abs(away - 0.74 * radius) - 0.28 * radius
    if shape == "triangle":
        return np.maximum(y, 0.8660254 * aside - 0.5 * y) - 0.575 * radius
    if shape == "square":
        return long - 0.81 * radius
    return np.maximum(long - 1.05 * radius, wide - 0.36 * radius)


def outline(thing: Thing, x: Array, y: Array) -> Array:
    """Distance in pixels from points (x, y) to the outline of a placed thing, negative inside."""
    cos, sin = math.cos(thing.angle), math.sin(thing.angle)
    dx, dy = x - thing.x, y - thing.y
    return signed_distance(thing.shape, dx * cos + dy * sin, dy * cos - dx * sin, thing.radius)


def _draw_thing(picture: Array, thing: Thing, light: tuple[float, float], grain: Array) -> Array:
    """The picture with a thing laid on it: soft shadow away from the light, bevel towards it."""
    lift = 0.9 + 0.12 * thing.radius
    shadow = outline(thing, _X + lift * light[0], _Y + lift * light[1])
    picture = picture * (1 - 0.5 * np.clip(0.6 - shadow / 4, 0, 1))[..., None]
    distance = outline(thing, _X, _Y)
    slope_y, slope_x = np.gradient(distance)
    bevel = (slope_x * light[0] + slope_y * light[1]) * np.exp(np.minimum(distance, 0) / 1.6)
    across = ((_X - thing.x) * light[0] + (_Y - thing.y) * light[1]) / thing.radius
    shade = 0.92 + 0.13 * across + 0.2 * bevel + 0.035 * grain
    surface = np.array(COLOURS[thing.colour], np.float32) * shade[..., None]
    surface = surface + 0.14 * np.exp(-12 * (across - 0.62) ** 2)[..., None]
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    picture += cover * (np.clip(surface, 0, 1) - picture)
    return picture


def render(scene: Scene) -> npt.NDArray[np.uint8]:
    """Draws a scene.

    Args:
        scene: as `sample_scene` makes it.
    Returns:
        uint8 [64, 64, 3] RGB: the same pixels for the same scene.
    """
    rng = np.random.default_rng(scene.seed % 2**63)
    towards = rng.uniform(-2.6, -0.5)
    light = (math.cos(towards), math.sin(towards))
    picture = _draw_ground(rng, scene.background, light)
    grain = _noise(rng, 18, 18)
    for thing in scene.things:
        picture = _draw_thing(picture, thing, light, grain)
    centre = SIDE / 2
    slope = ((_X - centre) * light[0] + (_Y - centre) * light[1]) / SIDE
    lit = 1 + rng.uniform(0.15, 0.45) * slope + 0.05 * _noise(rng, 4, 4)
    noisy = picture * lit[..., None] + rng.normal(0, 0.012, picture.shape)
    return (255 * np.clip(noisy, 0, 1) + 0.5).astype(np.uint8)
