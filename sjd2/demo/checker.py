"""Reads a picture and a caption and says, claim by claim, whether the picture shows it.

The objects stand out by chroma (largest minus smallest channel), which shading and the texture of
the ground barely touch. Each connected patch of high chroma is one object: its hue names the
colour, and overlap with the renderer's own outlines, at equal area and centre, names the shape.
"""

import math
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sjd2.demo.captions import SHAPES, Facts, Noun, parse_caption
from sjd2.demo.scenes import COLOURS, SIDE, signed_distance

Field = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]

LEAST_CHROMA = 0.2  # objects lie above 0.3 but for their edges, grounds below 0.18
EDGE = 0.55  # an object ends where its chroma falls to this share of what it has inside
LEAST_AREA = 90  # in pixels; the smallest object has 235, so what is smaller is a speck
LEAST_OVERLAP = 0.8  # intersection over union of a drawn shape with its ideal
LEAST_SHARE = 0.7  # of an object's pixels that must agree on its colour
SMALL_BELOW = 17.5  # radius in pixels: "small" is 14, "large" 22


@dataclass(frozen=True)
class Seen:
    """One object found in a picture; colour and shape are "unclear" where nothing fits well.

    x, y and radius are in pixels of a 96x96 picture.
    """

    colour: str
    shape: str
    size: str
    x: float
    y: float
    radius: float

    def is_a(self, noun: Noun) -> bool:
        """Whether this is the object a noun names, its size aside."""
        return (self.colour, self.shape) == (noun.colour, noun.shape)

    def stands(self, relation: str, other: "Seen") -> bool:
        """Whether this object is more `relation` ("left of", ...) the other than anything else."""
        dx, dy = other.x - self.x, other.y - self.y
        along = {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[relation]
        return along > 0 and along == max(abs(dx), abs(dy))


@dataclass(frozen=True)
class Claim:
    """One claim of a caption, such as "count: 2" or "object: red ring", and whether it holds."""

    name: str
    holds: bool


@dataclass(frozen=True)
class Verdict:
    """What the picture shows (`seen`) and which claims of its caption hold."""

    claims: tuple[Claim, ...]
    seen: tuple[Seen, ...]

    @property
    def passed(self) -> bool:
        """Whether every claim holds."""
        return all(claim.holds for claim in self.claims)


def check(picture: npt.NDArray[np.uint8] | Image.Image, caption: str) -> Verdict:
    """Judges a picture against a caption.

    Args:
        picture: uint8 [H, W, 3] RGB, or a PIL image; brought to 96x96 if it is of another size.
        caption: a sentence that `parse_caption` understands.
    Returns:
        Verdict: a claim for the count, for each object's colour and for the object itself, and
            where the caption speaks of them for its size and for the relation.
    Raises:
        TypeError: a picture that is neither, or whose dtype is not uint8.
        ValueError: a picture of another shape, or a caption outside the grammar.
    """
    facts = parse_caption(caption)
    seen = look(picture)
    nouns = facts.nouns if facts.relation else facts.nouns * facts.count
    count = Claim(f"count: {facts.count}", len(seen) == facts.count)
    # Which object the caption means by which noun is open: take the pairing that suits it best.
    missing = [None] * max(0, len(nouns) - len(seen))
    pairings = permutations([*seen[: len(nouns) + 1], *missing], len(nouns))
    readings = (_claims(facts, nouns, pairing) for pairing in pairings)
    best = max(readings, key=lambda claims: sum(claim.holds for claim in claims))
    return Verdict((count, *best), seen)


def _claims(
    facts: Facts, nouns: tuple[Noun, ...], pairing: tuple[Seen | None, ...]
) -> tuple[Claim, ...]:
    """The claims other than the count, where the caption's nouns mean these objects in order."""
    claims = []
    for noun, seen in zip(nouns, pairing, strict=True):
        claims.append(Claim(f"colour: {noun.colour}", bool(seen and seen.colour == noun.colour)))
        claims.append(Claim(f"object: {noun.colour} {noun.shape}", bool(seen and seen.is_a(noun))))
        if noun.size:
            claims.append(Claim(f"size: {noun.size}", bool(seen and seen.size == noun.size)))
    if facts.relation:
        first, second = pairing
        holds = bool(first and second and first.stands(facts.relation, second))
        claims.append(Claim(f"relation: {facts.relation}", holds))
    return tuple(claims)


def look(picture: npt.NDArray[np.uint8] | Image.Image) -> tuple[Seen, ...]:
    """The objects of a picture, largest first.

    Args:
        picture: as in `check`.
    Returns:
        tuple of Seen: one for each patch of strong colour that is no speck.
    Raises:
        TypeError, ValueError: as in `check`.
    """
    pixels = _as_pixels(picture)
    # A colour cast would lift the chroma of the ground, and most of a picture is ground.
    pixels -= np.median(pixels - pixels.mean(axis=2, keepdims=True), axis=(0, 1))
    chroma = _soften(pixels.max(axis=2) - pixels.min(axis=2))
    patches = [_trim(patch, chroma) for patch in _patches(chroma)]
    seen = [_describe(pixels, patch) for patch in patches if patch.sum() >= LEAST_AREA]
    return tuple(sorted(seen, key=lambda one: -one.radius))


def _as_pixels(picture: npt.NDArray[np.uint8] | Image.Image) -> Field:
    """Float [96, 96, 3] in 0..1."""
    if not isinstance(picture, Image.Image):
        if not isinstance(picture, np.ndarray):
            raise TypeError(f"picture must be an array or a PIL image, not {type(picture)}")
        if picture.dtype != np.uint8:
            raise TypeError(f"picture must be of dtype uint8, not {picture.dtype}")
        if picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise ValueError(f"picture must be of shape [H, W, 3], not {list(picture.shape)}")
        picture = Image.fromarray(picture)
    picture = picture.convert("RGB")
    if picture.size != (SIDE, SIDE):
        picture = picture.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(picture, np.float32) / 255


def _soften(field: Field) -> Field:
    """The mean of each pixel with its four neighbours, which takes out single noisy pixels."""
    wide = np.pad(field, 1, mode="edge")
    sides = wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:]
    mean: Field = (field + sides) / 5
    return mean


def _patches(chroma: Field) -> list[Mask]:
    """The connected regions of high chroma that are no specks."""
    strong = chroma > LEAST_CHROMA
    labels = strong * np.arange(1, strong.size + 1).reshape(strong.shape)
    before = np.zeros_like(labels)
    while not np.array_equal(labels, before):  # each pixel takes the largest label next to it
        before = labels.copy()
        for one, other in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
            np.maximum(one, other, out=one)
            np.maximum(other, one, out=other)
        labels *= strong
    names, areas = np.unique(labels[strong], return_counts=True)
    return [labels == name for name in names[areas >= LEAST_AREA]]


def _trim(patch: Mask, chroma: Field) -> Mask:
    """The patch without the halo that blur gives it, and with the hole that blur fills."""
    return patch & (chroma > EDGE * np.quantile(chroma[patch], 0.8))


def _describe(pixels: Field, patch: Mask) -> Seen:
    rows, columns = np.nonzero(patch)
    x, y = float(columns.mean()) + 0.5, float(rows.mean()) + 0.5
    shape, overlap = max(((s, _overlap(patch, x, y, s)) for s in SHAPES), key=lambda pair: pair[1])
    radius = _radius(shape, len(rows))
    return Seen(
        _colour(pixels[patch]),
        shape if overlap >= LEAST_OVERLAP else "unclear",
        "small" if radius < SMALL_BELOW else "large",
        x,
        y,
        radius,
    )


def _hue(pixels: Field) -> Field:
    """Hue in radians of [..., 3] pixels: unmoved by brightness and by added white."""
    red, green, blue = np.moveaxis(pixels, -1, 0)
    hue: Field = np.arctan2(math.sqrt(3) * (green - blue), 2 * red - green - blue)
    return hue


_HUES = _hue(np.array(list(COLOURS.values()), np.float32))


def nearest_hue(pixels: Field) -> npt.NDArray[np.int64]:
    """The numbers in COLOURS of the hues nearest to those of [..., 3] RGB pixels in 0..1."""
    away = np.abs(np.angle(np.exp(1j * (_hue(pixels)[..., None] - _HUES))))
    nearest: npt.NDArray[np.int64] = away.argmin(axis=-1)
    return nearest


def _colour(pixels: Field) -> str:
    """The colour whose hue is nearest for most of the [n, 3] pixels, if they agree."""
    votes = np.bincount(nearest_hue(pixels), minlength=len(COLOURS))
    return list(COLOURS)[votes.argmax()] if votes.max() >= LEAST_SHARE * len(pixels) else "unclear"


@cache
def _unit_area(shape: str) -> float:
    """The area of a shape of radius 1, measured on a fine grid."""
    axis = np.linspace(-1.25, 1.25, 501)
    x, y = np.meshgrid(axis, axis)
    return float((signed_distance(shape, x, y, 1.0) < 0).mean()) * 2.5**2


def _radius(shape: str, area: float) -> float:
    return math.sqrt(area / _unit_area(shape))


def _overlap(patch: Mask, x: float, y: float, shape: str) -> float:
    """Intersection over union of a patch with a shape of its area and centre."""
    rows, columns = np.indices(patch.shape, np.float32) + 0.5
    radius = _radius(shape, patch.sum())
    ideal = signed_distance(shape, columns - x, rows - y, radius) < 0
    return float((patch & ideal).sum() / (patch | ideal).sum())
