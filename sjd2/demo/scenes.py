"""Captioned 96x96 pictures: shaded shapes on textured ground, with a held-out set of combinations.

The pictures are small enough for a four-million-parameter model: objects stand upright, their
centres on a lattice of 4 pixels, in one of two sizes, and no two at one height. And they are busy
enough to be a fair test: the ground is lit, textured and unpredictable from one 4x4 patch to the
next, as in a photograph.

Captions (module `captions`) are lower-case words and single spaces; `VOCABULARY` lists every word.

Held out of training is one *combination* in about eight (`is_held_out`):
(colour, shape) of a single object that is not large, the unordered pair of (colour, shape) of two
related objects, and (count, colour, shape) of equal objects. Every colour of every shape in every
size still occurs in training, though not in every kind of scene: no green ring stands alone there,
but many in pairs. Of large objects, which only stand alone, sentences are held out instead.

A single object whose caption says no size is drawn as small ones are.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sjd2.demo.captions import (
    COLOUR_NAMES,
    RELATIONS,
    SHAPES,
    UNSAID,
    VOCABULARY,
    Facts,
    Noun,
    form_of,
    is_held_out,
    is_held_out_sentence,
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

SIDE = 96
COLOURS = {
    "red": (0.85, 0.09, 0.12),
    "orange": (0.98, 0.49, 0.05),
    "yellow": (0.97, 0.86, 0.12),
    "green": (0.12, 0.66, 0.25),
    "blue": (0.11, 0.36, 0.92),
    "purple": (0.49, 0.17, 0.80),
    "pink": (0.98, 0.42, 0.71),
}

RADII = {"small": 14.0, "large": 22.0}  # in pixels, by the size a caption names
LATTICE = 4.0  # centres lie on multiples of this, the side of a token
REACH = 1.15  # no shape extends beyond this many radii from its centre
GAP = 4.0  # least distance in pixels between two objects
BORDER = 7.0  # least distance in pixels between an object and the edge of the picture
APART = {1: 0.0, 2: 28.0, 3: 20.0}  # least difference in pixels of the heights of so many equals
STEP = 16.0  # in pixels, how much lower the right one of two side by side stands at least


@dataclass(frozen=True)
class Thing:
    """One object of a scene; x, y and radius in pixels."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """A picture before it is drawn: `render` makes the pixels, `facts` is what it shows."""

    things: tuple[Thing, ...]
    caption: str
    facts: Facts
    background: str
    seed: int


# Sampling: draw a combination of the split, then places for its objects.


_WEIGHTS = (3, 5, 3)  # how often a single object, a pair and equals are drawn
_RELATION_WEIGHTS = (2, 2, 1, 1)  # side by side is harder to learn than one above the other
_SIZES = (None, None, "small", "large", "large")  # of a single object, each as often


def _sample_facts(rng: random.Random) -> Facts:
    nouns = list(product(COLOUR_NAMES, SHAPES))
    kind = rng.choices(("single", "pair", "equals"), _WEIGHTS)[0]
    if kind == "pair":
        first, second = rng.sample(nouns, 2)
        relation = rng.choices(RELATIONS, _RELATION_WEIGHTS)[0]
        return Facts((Noun(*first), Noun(*second)), 2, relation)
    noun = rng.choice(nouns)
    if kind == "single":
        return Facts((Noun(*noun, size=rng.choice(_SIZES)),), 1)
    return Facts((Noun(*noun),), rng.choice((2, 3)))


def _on_lattice(rng: random.Random, low: float, high: float) -> float:
    return LATTICE * rng.randint(math.ceil(low / LATTICE), math.floor(high / LATTICE))


def _place(rng: random.Random, reaches: list[float]) -> list[tuple[float, float]] | None:
    """Random places for discs of these reaches, or None where the draw lets two come too close."""
    places: list[tuple[float, float]] = []
    for i, reach in enumerate(reaches):
        low, high = BORDER + reach, SIDE - BORDER - reach
        x, y = _on_lattice(rng, low, high), _on_lattice(rng, low, high)
        if any(math.dist((x, y), places[j]) < reach + reaches[j] + GAP for j in range(i)):
            return None
        places.append((x, y))
    return places


def _stands(relation: str | None, places: list[tuple[float, float]]) -> bool:
    """Whether the first place is clearly `relation` the second, and objects come one by one.

    They stand at heights of their own, the left one of two side by side above the right one, so
    that the tokens of one begin well before those of the next. A model that has to begin two in one
    row mixes them up, and of equal ones draws too many.
    """
    if relation is None:
        apart = APART[len(places)]
        return all(abs(y - z) >= apart for (_, y), (_, z) in combinations(places, 2))
    dx, dy = places[1][0] - places[0][0], places[1][1] - places[0][1]
    if relation in ("left of", "right of"):
        lower = dy if dx > 0 else -dy  # the right one
        return (dx > 0) == (relation == "left of") and STEP <= lower < abs(dx) / 2
    return (dy if relation == "above" else -dy) > 2 * abs(dx)


def _arrange(rng: random.Random, facts: Facts) -> tuple[Thing, ...]:
    nouns = facts.nouns * (facts.count // len(facts.nouns))
    radii = [RADII[noun.size or UNSAID] for noun in nouns]
    places: list[tuple[float, float]] | None = None
    while places is None or not _stands(facts.relation, places):
        places = _place(rng, [REACH * radius for radius in radii])
    return tuple(
        Thing(noun.colour, noun.shape, x, y, radius)
        for noun, (x, y), radius in zip(nouns, places, radii, strict=True)
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
    while True:
        facts, ground = _sample_facts(rng), rng.choice(tuple(_TEXTURES))
        caption = word_caption(rng, facts, ground)
        if is_held_out_sentence(facts, caption) == (split == "held_out"):
            return Scene(_arrange(rng, facts), caption, facts, ground, seed)


def held_out_captions(n: int, seed: int = 0, form: str | None = None) -> list[str]:
    """n distinct captions of held-out combinations, the same for the same arguments.

    Args:
        n: how many.
        seed: of the scenes that they are taken from.
        form: one of `FORMS`; None takes them as they come.
    """
    captions: dict[str, None] = {}
    number = 0
    while len(captions) < n:
        caption = sample_scene(seed * 1_000_003 + number, "held_out").caption
        if form in (None, form_of(caption)):
            captions[caption] = None
        number += 1
    return list(captions)


# Drawing. Fields are [96, 96] over (row, column); pictures are [96, 96, 3] in 0..1.

_AXIS: Array = np.arange(SIDE, dtype=np.float32) + np.float32(0.5)
_X, _Y = np.meshgrid(_AXIS, _AXIS)


@cache
def _spread(cells: int) -> Array:
    """[96, cells] Gaussian weights, rows of unit norm so that spread noise keeps unit variance."""
    knots = np.linspace(0, SIDE, cells, dtype=np.float32)
    weights: Array = np.exp(-(((_AXIS[:, None] - knots) * (cells - 1) / SIDE / 0.6) ** 2))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    return weights


def _noise(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """Smooth noise of unit variance with about `rows` by `columns` independent cells."""
    return _spread(rows) @ rng.standard_normal((rows, columns), np.float32) @ _spread(columns).T


def _plaster(rng: np.random.Generator) -> Array:
    tone: Array = 0.16 * _noise(rng, 57, 57) + 0.12 * _noise(rng, 66, 66)
    return tone


def _sand(rng: np.random.Generator) -> Array:
    """Grains of about a pixel and a half, some of them dark."""
    grains = _noise(rng, 66, 66)
    tone: Array = 0.13 * grains - 0.3 * np.clip(_noise(rng, 63, 63) - 1, 0, 1)
    return tone + 0.05


def _felt(rng: np.random.Generator) -> Array:
    """Short hairs, more of them across than along."""
    tone: Array = 0.17 * _noise(rng, 72, 48) + 0.11 * _noise(rng, 51, 72)
    return tone


def _gravel(rng: np.random.Generator) -> Array:
    """Pebbles: each pixel has the shade of the nearest point on a jittered grid, seams are dark."""
    cell = rng.uniform(3.6, 4.6)
    points = rng.uniform(0, 1, (32, 32, 3)).astype(np.float32)
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
    tone: Array = 0.6 * (shade - 0.5) + 0.3 * (dome - 0.6) + 0.05 * _noise(rng, 54, 54)
    return tone


def _granite(rng: np.random.Generator) -> Array:
    """Flecks of three shades."""
    flecks = _noise(rng, 57, 57)
    tone: Array = 0.24 * np.clip(2.5 * (np.abs(flecks) - 0.8), 0, 1) * np.sign(flecks)
    return tone + 0.08 * _noise(rng, 60, 60)


def _cork(rng: np.random.Generator) -> Array:
    """Pale crumbs with dark pits between them."""
    pits = np.clip(1.6 * (_noise(rng, 57, 57) - 0.9), 0, 1)
    tone: Array = 0.08 - 0.42 * pits + 0.11 * _noise(rng, 63, 63)
    return tone


_TEXTURES: dict[str, Callable[[np.random.Generator], Array]] = {
    "plaster": _plaster,
    "sand": _sand,
    "felt": _felt,
    "gravel": _gravel,
    "granite": _granite,
    "cork": _cork,
}
# Hue in turns, saturation, value: each ground has a range of its own around these.
_TINTS = {
    "plaster": (0.12, 0.06, 0.82),
    "sand": (0.11, 0.22, 0.78),
    "felt": (0.40, 0.16, 0.66),
    "gravel": (0.60, 0.08, 0.68),
    "granite": (0.96, 0.09, 0.74),
    "cork": (0.07, 0.24, 0.72),
}


def _tint(hue: float, saturation: float, value: float) -> Array:
    """A pale RGB colour [3]; saturation stays low so that objects stand out by chroma alone."""
    waves = 0.5 + 0.5 * np.cos(2 * np.pi * (hue - np.array([0, 1 / 3, 2 / 3])))
    return (value * (1 - saturation * (1 - waves))).astype(np.float32)


def _draw_ground(rng: np.random.Generator, ground: str, light: tuple[float, float]) -> Array:
    tone = _TEXTURES[ground](rng)
    slope_y, slope_x = np.gradient(tone)
    tone = np.clip(0.5 + tone - 0.5 * (slope_x * light[0] + slope_y * light[1]), 0, 1)
    hue, saturation, value = _TINTS[ground]
    hue, value = hue + rng.normal(0, 0.005), value + rng.uniform(-0.03, 0.03)
    dark = _tint(hue, saturation, value * rng.uniform(0.39, 0.43))
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
    return signed_distance(thing.shape, x - thing.x, y - thing.y, thing.radius)


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
        uint8 [96, 96, 3] RGB: the same pixels for the same scene.
    """
    rng = np.random.default_rng(scene.seed % 2**63)
    towards = rng.uniform(-2.3, -1.9)
    light = (math.cos(towards), math.sin(towards))
    picture = _draw_ground(rng, scene.background, light)
    grain = _noise(rng, 27, 27)
    for thing in scene.things:
        picture = _draw_thing(picture, thing, light, grain)
    centre = SIDE / 2
    slope = ((_X - centre) * light[0] + (_Y - centre) * light[1]) / SIDE
    lit = 1 + rng.uniform(0.2, 0.3) * slope
    noisy = picture * lit[..., None] + rng.normal(0, 0.012, picture.shape)
    return (255 * np.clip(noisy, 0, 1) + 0.5).astype(np.uint8)
