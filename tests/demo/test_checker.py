import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sjd2.demo.checker import check, look
from sjd2.demo.scenes import COLOURS, SHAPES, Facts, Scene, Thing, render, sample_scene

MIRROR = {"right of": "left of", "below": "above"}


@pytest.fixture(scope="module")
def scenes():
    return [sample_scene(i, split) for i in range(500) for split in ("train", "held_out")]


@pytest.fixture(scope="module")
def pictures(scenes):
    return [render(scene) for scene in scenes]


def meaning(facts: Facts):
    """The facts so that two captions which claim the same have the same meaning."""
    if facts.relation in MIRROR:
        return Facts(facts.nouns[::-1], 2, MIRROR[facts.relation])
    return facts


def worn(picture, side, seed, noise=5.0, cast=4.0):
    """A stand-in for the VQ decoder: blurred to side x side and back, noise, and a colour cast."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(picture).resize((side, side), Image.Resampling.BOX)
    blurred = np.asarray(small.resize((96, 96), Image.Resampling.BICUBIC), float)
    drift = rng.normal(0, noise, picture.shape) + rng.normal(0, cast, 3)
    return np.clip(blurred + drift, 0, 255).astype(np.uint8)


def share(verdicts):
    return np.mean([verdict.passed for verdict in verdicts])


def test_a_rendered_scene_passes_with_its_own_caption(scenes, pictures):
    """Kills: reading rows as x, or "below" as the larger height."""
    verdicts = [check(p, s.caption) for p, s in zip(pictures, scenes, strict=True)]
    assert share(verdicts) >= 0.99


def test_a_rendered_scene_fails_with_the_caption_of_another(scenes, pictures):
    """Kills: a verdict that passes when any claim holds."""
    order = np.random.default_rng(0).permutation(len(scenes))
    wrong = [
        check(pictures[i], scenes[j].caption)
        for i, j in enumerate(order[:300])
        if meaning(scenes[i].facts) != meaning(scenes[j].facts)
    ]
    assert len(wrong) > 290
    assert share(wrong) <= 0.01


@pytest.mark.parametrize(("side", "noise", "least"), [(48, 5, 0.98), (24, 5, 0.93), (48, 16, 0.95)])
def test_blur_and_noise_do_not_matter(scenes, pictures, side, noise, least):
    """Kills: no trimming of the halo that blur gives an object, no filter against noise."""
    pairs = zip(scenes[:120], pictures[:120], strict=True)
    assert share([check(worn(p, side, s.seed, noise), s.caption) for s, p in pairs]) >= least


def test_a_colour_cast_does_not_matter(scenes, pictures):
    """Kills: chroma taken as it comes, without balance against the cast."""
    pairs = zip(scenes[:100], pictures[:100], strict=True)
    assert share([check(worn(p, 48, s.seed, 2.0, 20.0), s.caption) for s, p in pairs]) >= 0.93


def without_one(scene, rng):
    return scene.things[1:]


def with_another(scene, rng):
    for _ in range(1000):
        x, y = rng.uniform(18, 78), rng.uniform(18, 78)
        new = replace(scene.things[0], x=x, y=y, radius=12.0)
        gaps = [np.hypot(x - t.x, y - t.y) - 1.15 * (12 + t.radius) for t in scene.things]
        if min(gaps) > 3:
            return (*scene.things, new)
    return scene.things[1:]


def in_the_next_colour(scene, rng):
    colours = list(COLOURS)
    first, *rest = scene.things
    after = colours[(colours.index(first.colour) + 1) % len(colours)]
    return (replace(first, colour=after), *rest)


def in_another_shape(scene, rng):
    first, *rest = scene.things
    other = rng.choice([shape for shape in SHAPES if shape != first.shape])
    return (replace(first, shape=other), *rest)


def with_roles_swapped(scene, rng):
    a, b = scene.things
    return (replace(a, x=b.x, y=b.y), replace(b, x=a.x, y=a.y))


def on_the_other_axis(scene, rng):
    return tuple(replace(thing, x=thing.y, y=thing.x) for thing in scene.things)


def of_the_other_size(scene, rng):
    radius = {"small": 22.0, "large": 14.0}[scene.facts.nouns[0].size]
    return (replace(scene.things[0], x=48.0, y=48.0, radius=radius),)


@pytest.mark.parametrize(
    ("edit", "applies"),
    [
        (without_one, lambda facts: True),
        (with_another, lambda facts: True),
        (in_the_next_colour, lambda facts: True),
        (in_another_shape, lambda facts: True),
        (with_roles_swapped, lambda facts: facts.relation),
        (on_the_other_axis, lambda facts: facts.relation),
        (of_the_other_size, lambda facts: facts.nouns[0].size),
    ],
)
def test_one_false_thing_fails_the_picture(scenes, edit, applies):
    """Kills: dropping any single claim; each edit falsifies one and leaves the others alone."""
    rng = random.Random(0)
    chosen = [scene for scene in scenes if applies(scene.facts)][:25]
    edited = [replace(scene, things=edit(scene, rng)) for scene in chosen]
    assert share([check(render(scene), scene.caption) for scene in edited]) == 0
    assert share([check(worn(render(s), 48, s.seed), s.caption) for s in edited]) == 0


def test_the_failing_claim_is_named():
    """Kills: claims reported in another order than they were judged."""
    red = Thing("red", "ring", 24.0, 48.0, 14.0)
    blue = Thing("blue", "square", 72.0, 48.0, 14.0)
    picture = render(Scene((red, blue), "", Facts((), 2), "felt", 0))
    verdict = check(picture, "a red ring to the right of a green square")
    assert {claim.name: claim.holds for claim in verdict.claims} == {
        "count: 2": True,
        "colour: red": True,
        "object: red ring": True,
        "colour: green": False,
        "object: green square": False,
        "relation: right of": False,
    }
    assert not verdict.passed
    assert check(picture, "a red ring to the left of a blue square").passed


def test_what_is_seen_is_where_it_was_drawn(scenes, pictures):
    """Kills: centres off by half a pixel times the scale, radii of the wrong shape."""
    off = []
    for scene, picture in zip(scenes[:100], pictures[:100], strict=True):
        for one in look(picture):
            thing = min(scene.things, key=lambda t: abs(t.x - one.x) + abs(t.y - one.y))
            off.append((one.x - thing.x, one.y - thing.y, one.radius / thing.radius - 1))
    assert np.abs(off).max() < 1
    # Light comes from above, so the darker lower edges are trimmed a little more.
    assert np.abs(np.mean(off, axis=0)).max() < 0.35


def test_a_blob_of_no_shape_and_a_patch_of_two_colours_are_unclear():
    """Kills: always answering with the nearest shape and colour."""
    picture = np.full((64, 64, 3), 110, np.uint8)
    picture[10:50, 10:16] = picture[44:50, 10:50] = [220, 30, 30]
    assert [(one.colour, one.shape) for one in look(picture)] == [("red", "unclear")]
    picture = np.full((64, 64, 3), 110, np.uint8)
    picture[20:44, 20:32], picture[20:44, 32:44] = [220, 30, 30], [30, 90, 230]
    assert [(one.colour, one.shape) for one in look(picture)] == [("unclear", "square")]


def test_specks_are_no_objects(scenes, pictures):
    """Kills: counting every connected patch."""
    speckled = pictures[0].copy()
    speckled[1:4, 1:4] = speckled[60:63, 1:4] = speckled[60:63, 60:63] = [250, 220, 20]
    assert check(speckled, scenes[0].caption).passed


def test_an_empty_picture_shows_nothing():
    """Kills: a claim about an object that holds where there is none."""
    verdict = check(np.full((64, 64, 3), 90, np.uint8), "a red ring above a blue ring")
    assert verdict.seen == ()
    assert not any(claim.holds for claim in verdict.claims)


def test_other_sizes_and_pil_images_are_taken(scenes, pictures):
    """Kills: measuring sizes in the pixels of the picture as it came."""
    large = Image.fromarray(pictures[0]).resize((256, 256), Image.Resampling.NEAREST)
    assert check(large, scenes[0].caption) == check(pictures[0], scenes[0].caption)


def test_a_large_picture_is_averaged_down(scenes, pictures):
    """Kills: taking one pixel of every block, which keeps the noise that the others average out."""
    large = np.asarray(Image.fromarray(pictures[0]).resize((512, 512), Image.Resampling.BOX), float)
    noisy = np.clip(large + np.random.default_rng(0).normal(0, 60, large.shape), 0, 255)
    assert check(noisy.astype(np.uint8), scenes[0].caption).passed


@pytest.mark.parametrize(
    ("picture", "error", "named"),
    [
        (np.zeros((64, 64, 3), np.float32), TypeError, "float32"),
        ([[0, 0, 0]], TypeError, "list"),
        (np.zeros((64, 64), np.uint8), ValueError, r"\[64, 64\]"),
        (np.zeros((3, 64, 64), np.uint8), ValueError, r"\[3, 64, 64\]"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(picture, error, named):
    """Kills: casting floats in 0..1 to a black picture."""
    with pytest.raises(error, match=named):
        check(picture, "a red ring")


def test_an_unknown_word_is_refused_by_name(pictures):
    """Kills: a claim silently left out because its word is unknown."""
    with pytest.raises(ValueError, match="'teapot'"):
        check(pictures[0], "a red teapot")
