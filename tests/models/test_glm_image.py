"""GLM-Image draws what stock `generate` draws, with its two grids and positions of three kinds."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sjd2
from sjd2.patching import install
from sjd2.sampler.method import resolve
from tests.table_model import excess_of_pictures

glm = pytest.importorskip("sjd2.models.glm_image")  # transformers has it from 5.1 on
from tests.glm_image_model import (  # noqa: E402
    CODES,
    PICTURE,
    PREVIEW,
    SOURCE,
    asked,
    tiny_glm_image,
)

TOKENS = {0: PICTURE[0] * PICTURE[1] + PREVIEW[0] * PREVIEW[1], 1: PICTURE[0] * PICTURE[1]}
END = CODES + 1
PAGE = Path(__file__).parents[2] / "docs" / "glm-image.md"


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_glm_image()


@pytest.fixture(autouse=True)
def _restored(model: Any) -> Any:
    yield
    sjd2.restore(model)


def stock(model: Any, inputs: dict[str, Tensor], **settings: Any) -> Tensor:
    """What upstream draws, with the end token set where it stops at the limit."""
    tokens = TOKENS["pixel_values" in inputs]
    return type(model).generate(model, **inputs, max_new_tokens=tokens, **settings)


@pytest.mark.parametrize(
    "options", [{"window": 7}, {"window": 50}, {"window": 5, "start": "uniform"}]
)
@pytest.mark.parametrize("sources", [0, 1, 2])
def test_greedy_equals_stock_generate(model: Any, sources: int, options: dict[str, Any]) -> None:
    """Kills: flat positions, those of another row, grids in the list's order, codes of a source
    picture left out, a preview where an edit has none.
    """
    inputs = asked(model, images=3, sources=sources)
    expected = stock(model, inputs, do_sample=False)
    assert len({tuple(row) for row in expected[:, -20:].tolist()}) == 3
    assert expected[:, -20:].unique().numel() > 10
    sjd2.accelerate(model, **options)
    drawn = model.generate(**inputs, do_sample=False)
    assert torch.equal(drawn[:, :-1], expected)
    assert (drawn[:, -1] == END).all()
    assert sjd2.decoding_stats(model).step_compression > 1


def test_pictures_do_not_depend_on_their_neighbours(model: Any) -> None:
    """Kills: positions that stay behind when rows leave; a row's grid taken for another's."""
    inputs, sampling = asked(model, images=4), {"do_sample": True, "temperature": 0.7}
    sjd2.accelerate(model, window=9)
    together = model.generate(**inputs, **sampling, seed=[5, 6, 7, 8])
    for row in (0, 2):
        one = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
        one["image_grid_thw"] = inputs["image_grid_thw"][2 * row : 2 * row + 2]
        alone = model.generate(**one, **sampling, seed=[5 + row])
        assert torch.equal(alone, together[row : row + 1])


@pytest.mark.parametrize("sources", [0, 1])
def test_same_seed_draws_the_picture_of_token_by_token(model: Any, sources: int) -> None:
    """Kills: a column predicted at the position of another."""
    inputs, sampling = asked(model, sources=sources), {"do_sample": True, "top_p": 0.9, "seed": 3}
    expected = sjd2.accelerate(model, method="ar").generate(**inputs, **sampling)
    drawn = sjd2.accelerate(model, verify="gumbel", window=8).generate(**inputs, **sampling)
    assert torch.equal(drawn, expected)
    assert sjd2.decoding_stats(model).step_compression > 1


def test_several_pictures_of_a_prompt(model: Any) -> None:
    """Kills: upstream's repetition of the grids, which puts them out of order."""
    inputs = asked(model, images=2, sources=1)
    sjd2.accelerate(model, window=8)
    seeds = {"do_sample": True, "seed": [1, 2, 3, 4]}
    several = model.generate(**inputs, num_return_sequences=2, **seeds)
    repeated = {name: tensor.repeat_interleave(2, 0) for name, tensor in inputs.items()}
    repeated["image_grid_thw"] = (
        inputs["image_grid_thw"].view(2, 2, 3).repeat_interleave(2, 0).flatten(0, 1)
    )
    repeated["pixel_values"] = (
        inputs["pixel_values"].view(2, 6, -1).repeat_interleave(2, 0).flatten(0, 1)
    )
    assert torch.equal(several, model.generate(**repeated, **seeds))


@pytest.mark.parametrize("seed", range(4))
def test_positions_are_those_of_upstream(model: Any, seed: int) -> None:
    """Kills: a grid that begins behind its rows instead of its longer side, a source picture read
    as words, a grid that moves in time.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = [tuple(pair) for pair in torch.randint(1, 6, (4, 2), generator=generator).tolist()]
    count = seed % 3
    sources, targets = sizes[:count], sizes[2:]
    row = [70, 71]
    for height, width in sources:
        row += [CODES, *[7] * (height * width), END, 75]
    row.append(CODES)
    grids = torch.tensor([[1, *size] for size in [*sources, *targets]])
    prompt, _ = model.model.get_rope_index(
        torch.tensor([row]), grids, torch.tensor([len(grids)]), torch.ones(1, len(row))
    )
    expected = torch.cat((prompt[:, 0], model.model._cached_decode_position_ids[0]), dim=1)
    found = glm.positions_of(row, sources, targets[::-1], END)
    assert torch.equal(found, expected)


@torch.no_grad()
def probabilities(model: Any, inputs: dict[str, Tensor], codes: int, tokens: int) -> Tensor:
    """Of every picture, by upstream's forward of the prompt and the whole picture."""
    pictures = torch.tensor(list(product(range(codes), repeat=tokens)))
    (prompt,) = inputs["input_ids"]
    at = len(prompt)
    grids = [(h, w) for _, h, w in inputs["image_grid_thw"].tolist()]
    places = glm.positions_of(prompt.tolist(), [], grids[::-1], model.config.image_end_token_id)
    ids = torch.cat((prompt.expand(len(pictures), -1), pictures), dim=1)
    logits = model(
        input_ids=ids[:, :-1],
        position_ids=places[:, None, : ids.shape[1] - 1].expand(-1, len(ids), -1),
    ).logits[:, at - 1 :, :codes]
    log_p = logits.double().log_softmax(-1).gather(-1, pictures[..., None])
    return log_p.sum((1, 2)).exp()


@pytest.mark.parametrize("options", [{"window": 3}, {"window": 20, "coupling": "independent"}])
def test_pictures_follow_the_models_distribution(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """3000 pictures of 243 outcomes show a bias of 29 % of a probability in the mean.

    Kills: a position of another column, an end token with a share of the probability.
    """
    model = tiny_glm_image(codes=3)
    with torch.no_grad():
        model.lm_head.weight.div_(5)
    inputs = asked(model, images=1)
    inputs["image_grid_thw"] = torch.tensor([[1, 2, 2], [1, 1, 1]])
    target = probabilities(model, inputs, 3, 5)
    assert abs(float(target.sum()) - 1) < 1e-5
    assert target.max() < 0.5
    sjd2.accelerate(model, **options)
    inputs = {name: tensor.repeat(3000, 1) for name, tensor in inputs.items()}
    inputs["images_per_sample"] = torch.full((3000,), 2)
    tokens = model.generate(**inputs, do_sample=True, seed=11)[:, -6:-1]
    assert excess_of_pictures(tokens, target / target.sum(), 3, sees=0.29) < 1
    # The power of it: positions that only count are another distribution.
    monkeypatch.setattr(glm.GlmImage, "_positions", lambda *_: None)
    tokens = model.generate(**inputs, do_sample=True, seed=11)[:, -6:-1]
    assert excess_of_pictures(tokens, target / target.sum(), 3, sees=0.29) > 1


def test_the_published_sizes_have_their_layouts() -> None:
    """On the published configuration.

    Kills: a preview of the wrong size, a grid that is not drawn.
    """
    from transformers import GlmImageConfig, GlmImageForConditionalGeneration

    with torch.device("meta"):
        published = GlmImageForConditionalGeneration(
            GlmImageConfig(text_config={"num_hidden_layers": 1}, vision_config={"depth": 1})
        )
    family = glm.GlmImage(published)
    assert family.vocab_size == 16384 + 1
    ids = torch.tensor([[5, 6, 16384]])
    for pixels, preview, tokens in ((512, 16, 513), (1024, 16, 1281), (2048, 16, 4353)):
        grids = torch.tensor([[1, pixels // 32, pixels // 32], [1, preview, preview]])
        layout = family.asked_by(ids, grids, torch.tensor([2])).layout
        assert layout.length == tokens
        assert layout.drawn == ((preview, preview), (pixels // 32, pixels // 32))
        assert family.geometry_of(layout).grammar.shape == (tokens,)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"image_grid_thw": None}, "image_grid_thw: needed"),
        ({"images_per_sample": torch.tensor([1, 2])}, r"images_per_sample: \[1, 2\]"),
        ({"max_new_tokens": 8}, "max_new_tokens=8"),
        ({"guidance_scale": 2.0}, "guidance_scale"),
        ({"image_sizes": [(4, 6)]}, "image_grid_thw says"),
        (
            {"image_grid_thw": torch.tensor([[1, 4, 6], [1, 2, 3], [1, 4, 4], [1, 2, 3]])},
            "pictures of a call have one size",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused(model: Any, change: dict[str, Any], error: str) -> None:
    """Kills: any one of the checks."""
    sjd2.accelerate(model)
    with pytest.raises(ValueError, match=error):
        model.generate(**{**asked(model), **change})


def test_text_mode_is_upstreams_own(model: Any) -> None:
    """Kills: no way back to what stock does, which may end a picture early."""
    inputs = asked(model)
    with torch.no_grad():
        model.lm_head.weight[END] = model.lm_head.weight[:CODES].mean(0) * 3
    try:
        torch.manual_seed(0)
        expected = stock(model, inputs, do_sample=True)
        sjd2.accelerate(model)
        torch.manual_seed(0)
        found = model.generate(
            **inputs, max_new_tokens=TOKENS[0], do_sample=True, generation_mode="text"
        )
        assert torch.equal(found, expected)
        assert (model.generate(**inputs, do_sample=True)[:, -31:-1] < CODES).all()
    finally:
        with torch.no_grad():
            model.lm_head.weight[CODES:] = 0


def test_two_threads_with_different_sizes_do_not_meet(model: Any) -> None:
    """Kills: positions read from the module, where upstream keeps those of the last call."""
    small = asked(model)
    large = {**asked(model), "image_grid_thw": torch.tensor([[1, 6, 5], [1, 3, 2]] * 2)}
    sjd2.accelerate(model, window=8)
    expected = [model.generate(**one, do_sample=False) for one in (small, large)]
    found: dict[int, list[Tensor]] = {0: [], 1: []}

    def run(number: int) -> None:
        found[number] += [
            model.generate(**(small, large)[number], do_sample=False) for _ in range(5)
        ]

    threads = [threading.Thread(target=run, args=(number,)) for number in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, drawn in found.items():
        assert len(drawn) == 5
        assert all(torch.equal(one, expected[number]) for one in drawn)


def test_scores_range_over_the_head(model: Any) -> None:
    """Kills: scores as wide as the words, of which the head knows none."""
    inputs = asked(model, images=1)
    options = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    expected = stock(model, inputs, **options)
    drawn = sjd2.accelerate(model, window=6).generate(**inputs, **options)
    for ours, theirs in zip(drawn.logits, expected.logits, strict=False):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours[:, :CODES], theirs[:, :CODES], atol=1e-4, rtol=1e-4)


def test_a_corrector_speeds_up_and_changes_nothing(model: Any) -> None:
    """Kills: a corrector that cannot be made for grids, or that moves what is committed."""
    inputs = asked(model)
    expected = sjd2.accelerate(model, method="ar").generate(**inputs, do_sample=True, seed=2)
    corrector = sjd2.new_corrector(model, rank=8)
    torch.nn.init.normal_(corrector.shift.weight, std=0.3)
    sjd2.accelerate(model, corrector=corrector, verify="gumbel", window=9)
    assert torch.equal(model.generate(**inputs, do_sample=True, seed=2), expected)
    assert sjd2.decoding_stats(model).is_corrected


def test_the_preview_may_be_the_draft(model: Any) -> None:
    """The example of docs/glm-image.md, run as it stands there up to the published sizes.

    Kills: drafts of another place, drafts that are not set.
    """
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (code,) = [code for code in examples if "def drafts_from_preview" in code]
    names: dict[str, Any] = {}
    exec(code.partition("\nmethod = ")[0], names)
    inputs, small = asked(model, images=3), PREVIEW[0] * PREVIEW[1]
    sjd2.accelerate(model, method="ar")
    alone = model.generate(**inputs, do_sample=True, seed=4)
    preview = alone[:, -TOKENS[0] - 1 :][:, :small].view(-1, *PREVIEW)
    copied = torch.zeros(PICTURE, dtype=torch.bool)

    def redrafting(state: Any) -> Any:
        redraft = names["drafts_from_preview"](PREVIEW, PICTURE)(state)

        def watched(now: Any) -> Any:
            verdict = redraft(now)
            last = state.position + verdict.window.width - 1 - small
            drafts = verdict.window.tokens[:, -1].tolist()
            for row, place, draft in zip(state.rows, last.tolist(), drafts, strict=True):
                if 0 <= place < copied.numel() and verdict.window.width == 5:
                    y, x = divmod(place, PICTURE[1])
                    assert draft == preview[row, y // 2, x // 2]
                    copied[y, x] = True
            return verdict

        return watched

    config = sjd2.DecodingConfig(window=5, verify="gumbel")
    install(model, replace(resolve(config), redrafting=redrafting))
    assert torch.equal(model.generate(**inputs, do_sample=True, seed=4), alone)
    assert copied.any()


def test_source_pictures_matter(model: Any) -> None:
    """Kills: placeholders embedded in place of the picture's codes."""
    inputs = asked(model, sources=1)
    sjd2.accelerate(model, window=8)
    before = model.generate(**inputs, do_sample=False)
    inputs["pixel_values"] = -inputs["pixel_values"]
    assert not torch.equal(model.generate(**inputs, do_sample=False), before)
    assert SOURCE[0] * SOURCE[1] * 2 == len(inputs["pixel_values"])
