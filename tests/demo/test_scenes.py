from itertools import combinations

import numpy as np
import pytest

from sjd2.demo import scenes as module
from sjd2.demo.scenes import (
    COLOURS,
    RELATIONS,
    SHAPES,
    SIDE,
    held_out_captions,
    is_held_out,
    is_held_out_sentence,
    outline,
    parse_caption,
    render,
    sample_scene,
)

PATCH = 4
AXIS = np.arange(SIDE) + 0.5
X, Y = np.meshgrid(AXIS, AXIS)


@pytest.fixture(scope="module")
def train():
    return [sample_scene(seed, "train") for seed in range(3000)]


@pytest.fixture(scope="module")
def held_out():
    return [sample_scene(seed, "held_out") for seed in range(1000)]


def patches(field):
    """[24, 24, 16]: the pixels of each 4x4 patch."""
    cut = field.reshape(SIDE // PATCH, PATCH, SIDE // PATCH, PATCH)
    return cut.transpose(0, 2, 1, 3).reshape(SIDE // PATCH, SIDE // PATCH, PATCH**2)


@pytest.mark.parametrize(
    ("seed", "split", "caption", "mean"),
    [
        (
            3,
            "train",
            "there is one purple disc with one green ring below it on cork",
            (119, 111, 106),
        ),
        (6, "train", "there is one orange cross", (137, 118, 103)),
        (1, "held_out", "there is a blue circle on felt", (100, 117, 117)),
        (2, "held_out", "there are three orange triangles on a bed of gravel", (120, 111, 103)),
    ],
)
def test_a_seed_means_the_same_scene_for_good(seed, split, caption, mean):
    """Kills: seeding with hash(), which differs between processes; a changed look of old seeds."""
    scene = sample_scene(seed, split)
    assert scene.caption == caption
    assert render(scene).mean(axis=(0, 1)) == pytest.approx(mean, abs=1)


def test_drawing_twice_is_the_same_and_leaves_the_scene_alone(train):
    """Kills: drawing into a cached ground, or from one generator kept between calls."""
    for scene in train[:20]:
        first = render(scene)
        kept = first.copy()
        render(train[20])
        assert first.shape == (SIDE, SIDE, 3)
        assert first.dtype == np.uint8
        np.testing.assert_array_equal(first, kept)
        np.testing.assert_array_equal(first, render(scene))


def test_different_seeds_draw_different_grounds(train):
    """Kills: a generator seeded with a constant."""
    same_kind = [scene for scene in train[:200] if scene.background == "gravel"]
    corners = {render(scene)[:3, :3].tobytes() for scene in same_kind}
    assert len(corners) == len(same_kind)


def test_the_splits_share_no_combination(train, held_out):
    """Kills: sampling once and taking whatever combination comes."""
    assert not any(is_held_out(scene.facts) for scene in train)
    # Large objects stand alone only, so of them sentences are held out.
    apart = [scene for scene in held_out if scene.facts.nouns[0].size != "large"]
    assert all(is_held_out(scene.facts) for scene in apart)
    assert not {s.facts.combination() for s in train} & {s.facts.combination() for s in apart}
    assert not {s.caption for s in train} & {s.caption for s in held_out}


def test_an_unknown_split_is_refused():
    """Kills: treating every other word as "train"."""
    with pytest.raises(ValueError, match="'test'"):
        sample_scene(0, "test")


def test_training_shows_every_colour_shape_relation_count_and_ground(train):
    """Kills: a rng.choice over a list that lost its last entry."""
    things = {(thing.colour, thing.shape) for scene in train for thing in scene.things}
    assert things == {(colour, shape) for colour in COLOURS for shape in SHAPES}
    assert {scene.facts.relation for scene in train} == {None, *RELATIONS}
    assert {len(scene.things) for scene in train} == {1, 2, 3}
    assert {scene.background for scene in train} == set(module._TEXTURES)


def test_the_things_are_those_of_the_facts(train):
    """Kills: naming the nouns of a pair in the other order than their places were drawn for."""
    for scene in train:
        first, second = scene.things[0], scene.things[-1]
        assert len(scene.things) == scene.facts.count
        assert [(t.colour, t.shape) for t in (first, second)] == [
            (n.colour, n.shape) for n in (scene.facts.nouns[0], scene.facts.nouns[-1])
        ]
        if scene.facts.count == 1:
            assert (first.radius > 18) == (scene.facts.nouns[0].size == "large")
        if scene.facts.relation:
            dx, dy = second.x - first.x, second.y - first.y
            along = {"left of": dx, "right of": -dx, "above": dy, "below": -dy}
            assert along[scene.facts.relation] > 1.9 * min(abs(dx), abs(dy))


def test_things_begin_one_after_another(train):
    """Kills: objects at one height, which the model mixes up, and equal ones it has to count."""
    heights = {1: [], 2: [], 3: []}
    for scene in train:
        ys = sorted(thing.y for thing in scene.things)
        if scene.facts.relation in ("left of", "right of"):
            first, second = sorted(scene.things, key=lambda thing: thing.x)
            assert second.y - first.y >= 16
        elif scene.facts.relation is None:
            heights[scene.facts.count].append(ys)
    assert np.diff(heights[2]).min() >= 28
    assert np.diff(heights[3]).min() >= 20
    # They stand in no fixed rows either.
    assert len({tuple(ys) for ys in heights[3]}) > 5


def test_things_keep_their_distance(train):
    """Kills: measuring the gap between centres, or of shapes that reach beyond their radius."""
    for scene in train[:300]:
        fields = [outline(thing, X, Y) for thing in scene.things]
        for field in fields:
            edge = np.concatenate([field[0], field[-1], field[:, 0], field[:, -1]])
            assert edge.min() > 1
        for one, other in combinations(fields, 2):
            # A pixel within d of both would put the outlines nearer than 2 d to each other.
            assert np.maximum(one, other).min() > 1.9


def test_grounds_are_textured_at_the_scale_of_a_patch(train):
    """Kills: a ground of flat colour, or one whose patches follow from their neighbours."""
    within, between = {}, {}
    for scene in train[:240]:
        grey = render(scene).mean(axis=2)
        clear = np.min([outline(thing, X, Y) for thing in scene.things], axis=0) > 6
        bare = patches(clear).all(axis=2)
        cut = patches(grey)
        mean = cut.mean(axis=2)
        around = (mean[:-2, 1:-1] + mean[2:, 1:-1] + mean[1:-1, :-2] + mean[1:-1, 2:]) / 4
        within.setdefault(scene.background, []).append(cut.std(axis=2)[bare].mean())
        surprise = np.abs(mean[1:-1, 1:-1] - around)[bare[1:-1, 1:-1]]
        between.setdefault(scene.background, []).append(surprise.mean())
    assert {kind: float(np.mean(v)) for kind, v in within.items() if np.mean(v) < 6} == {}
    assert {kind: float(np.mean(v)) for kind, v in between.items() if np.mean(v) < 5} == {}


def test_things_stand_out_from_the_ground_by_chroma(train):
    """Kills: a tint too strong for the checker, or a colour that pales under the highlight."""
    for scene in train[:200]:
        picture = render(scene).astype(float)
        chroma = picture.max(axis=2) - picture.min(axis=2)
        nearest = np.min([outline(thing, X, Y) for thing in scene.things], axis=0)
        assert np.quantile(chroma[nearest < -1], 0.02) > 1.2 * np.quantile(
            chroma[nearest > 2], 0.98
        )


def test_held_out_captions_are_distinct_held_out_and_reproducible():
    """Kills: counting a caption twice, or ignoring the seed."""
    captions = held_out_captions(400)
    assert len(set(captions)) == 400
    assert all(is_held_out_sentence(parse_caption(caption), caption) for caption in captions)
    assert captions == held_out_captions(400)
    assert captions[:50] == held_out_captions(50)
    assert captions != held_out_captions(400, seed=1)
