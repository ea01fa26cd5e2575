"""Emu3, Lumina-mGPT and Anole: the tokens of upstream's own loop, in pictures of the right form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import sjd2
from sjd2.models import family_of
from tests.family_models import (
    ANOLE,
    EMU3,
    EMU3_IMAGE,
    LUMINA,
    PAD,
    Family,
    tiny_chameleon,
    tiny_emu3,
)

METHODS = [{"method": "ar"}, {"window": 2}, {"window": 7}, {"window": 500}]


@pytest.mark.parametrize("options", METHODS)
@pytest.mark.parametrize(("rows", "guidance"), [(1, 3.0), (3, None), (3, 3.0)])
def test_greedy_equals_stock_generate(
    family: Family, model: Any, options: dict[str, Any], guidance: float | None, rows: int
) -> None:
    """Kills: a slice of the head off by one, padding read as text, a grammar at the wrong place,
    an unconditional row that sees the prompt.
    """
    settings = {"do_sample": False, **({"guidance_scale": guidance} if guidance else {})}
    expected = family.draw_stock(model, rows, **settings)
    sjd2.accelerate(model, **options)
    assert torch.equal(family.draw(model, rows, **settings), expected)


@pytest.mark.parametrize("cache", ["static", "dynamic"])
def test_greedy_equals_stock_generate_with_both_of_its_caches(
    family: Family, model: Any, cache: str
) -> None:
    """Kills: a cache of upstream's that is filled or read; a name refused for no reason."""
    settings = {"do_sample": False, "cache_implementation": cache, "guidance_scale": 2.0}
    expected = family.draw_stock(model, **settings)
    sjd2.accelerate(model, window=5)
    assert torch.equal(family.draw(model, **settings), expected)


@pytest.mark.parametrize("name", ["flash_attention_2", "flex_attention"])
def test_sdpa_stands_in_for_attention_that_takes_no_mask(
    family: Family, model: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: a model loaded with flash attention that cannot draw; one that is left changed."""
    settings = {"do_sample": False, "guidance_scale": 2.0}
    expected = family.draw_stock(model, **settings)
    backbone = family_of(model).backbone
    config = backbone.config
    sjd2.accelerate(model, window=6)
    monkeypatch.setattr(config, "_attn_implementation", name)
    assert torch.equal(family.draw(model, **settings), expected)
    assert config._attn_implementation == name

    def fails(*args: Any, **kwargs: Any) -> None:
        assert config._attn_implementation == "sdpa"
        raise RuntimeError("out of memory")

    monkeypatch.setattr(backbone, "forward", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        family.draw(model, **settings)
    assert config._attn_implementation == name


@pytest.mark.parametrize("name", ["paged|sdpa", "sage"])
def test_attention_of_another_kind_is_refused(
    family: Family, model: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: a mask in a form that an attention of the user's own does not read."""
    sjd2.accelerate(model, window=6)
    monkeypatch.setattr(family_of(model).backbone.config, "_attn_implementation", name)
    with pytest.raises(ValueError, match=r"attn_implementation=.* takes no per-row mask"):
        family.draw(model, do_sample=False)


@pytest.mark.parametrize("make", [tiny_emu3, tiny_chameleon])
def test_greedy_equals_stock_generate_under_eager_attention(make: Any) -> None:
    """Kills: a boolean mask handed to eager attention, which would add it."""
    family, model = (EMU3 if make is tiny_emu3 else LUMINA), make("eager")
    expected = family.draw_stock(model, do_sample=False, guidance_scale=2.0)
    sjd2.accelerate(model, window=6)
    assert torch.equal(family.draw(model, do_sample=False, guidance_scale=2.0), expected)


NEGATIVE = torch.tensor([[PAD, PAD, 1, 7], [1, 12, 13, 14], [PAD, 1, 8, 9]])


@pytest.mark.parametrize("rows", [1, 3])
def test_negative_prompts_are_what_guidance_compares_with(
    family: Family, model: Any, rows: int
) -> None:
    """Kills: negative prompts read with their padding, or one row's for another's."""
    settings = {
        "do_sample": False,
        "guidance_scale": 2.5,
        "negative_prompt_ids": NEGATIVE[:rows],
        "negative_prompt_attention_mask": (NEGATIVE[:rows] != PAD).long(),
    }
    expected = family.draw_stock(model, rows, **settings)
    sjd2.accelerate(model, window=7)
    assert torch.equal(family.draw(model, rows, **settings), expected)


def test_one_negative_prompt_serves_all_pictures(family: Family, model: Any) -> None:
    """Kills: a batch of prompts compared with a batch of one, or tiled across prompts."""
    sjd2.accelerate(model, window=7)
    settings = {"do_sample": False, "guidance_scale": 2.5}
    one = family.draw(model, negative_prompt_ids=NEGATIVE[1:2], **settings)
    three = family.draw(model, negative_prompt_ids=NEGATIVE[[1, 1, 1]], **settings)
    assert torch.equal(one, three)


@pytest.mark.parametrize("window", [2, 5, 64])
@pytest.mark.parametrize(("rows", "guidance"), [(1, 2.5), (3, 1.0), (3, 2.5)])
def test_same_seed_equals_token_by_token(
    family: Family, model: Any, window: int, rows: int, guidance: float
) -> None:
    """Kills: noise addressed by the vocabulary's ids in one method only, a draft of the grammar
    that is drawn.
    """
    settings = {"top_k": 20, "temperature": 1.3, "guidance_scale": guidance, "seed": 5}
    sjd2.accelerate(model, method="ar")
    expected = family.draw(model, rows, **settings)
    sjd2.accelerate(model, verify="gumbel", window=window)
    assert torch.equal(family.draw(model, rows, **settings), expected)
    assert sjd2.decoding_stats(model).step_compression > 1.1


WAYS = [{}, {"verify": "gumbel", "start": "repeat"}, {"coupling": "independent"}]


@pytest.mark.parametrize("window", [2, 5, 6, 13, 500])
@pytest.mark.parametrize("options", [*WAYS, {"start": "uniform"}])
def test_the_grammar_holds_in_every_row(
    family: Family, model: Any, window: int, options: dict[str, Any]
) -> None:
    """Also where the window overruns the picture; and no forward is spent on the grammar.

    Kills: an end of line that is drawn, one that is refined like another draft, a fixed token
    drafted wrongly at first, which stalls every row.
    """
    sjd2.accelerate(model, window=window, **options)
    sequences = family.draw(model, seed=1)
    ids, _ = family.prompts()
    tokens, forced = sequences[:, ids.shape[1] :], family.layout.forced()
    assert torch.equal(sequences[:, : ids.shape[1]], ids)
    assert tokens.shape[1] == family.layout.length
    assert (tokens[:, forced >= 0] == forced[forced >= 0]).all()
    assert torch.isin(tokens[:, forced < 0], torch.tensor(family.image)).all()
    if window > len(family.layout.after) + 1:
        free = int((forced < 0).sum())
        assert max(sjd2.decoding_stats(model).forward_passes) <= free + 1


def test_tokens_of_the_grammar_are_drawn_nowhere_else(family: Family, model: Any) -> None:
    """Kills: grammar tokens left in the distribution, where heat would find them."""
    sjd2.accelerate(model, window=8)
    tokens = family.draw(model, temperature=1000.0, guidance_scale=4.0, seed=3)
    free = tokens[:, -family.layout.length :][:, family.layout.forced() < 0]
    assert torch.isin(free, torch.tensor(family.image)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_draws_pictures(family: Family, dtype: torch.dtype) -> None:
    """Kills: a mask value that overflows, a float32 tensor among half ones."""
    model = sjd2.accelerate(family.make().to(dtype), window=8)
    tokens = family.draw(model, guidance_scale=3.0, seed=1)[:, -family.layout.length :]
    forced = family.layout.forced()
    assert torch.isin(tokens[:, forced < 0], torch.tensor(family.image)).all()
    assert len(tokens[:, forced < 0].unique()) > 5


def test_a_head_that_is_adapted_is_called(family: Family, model: Any) -> None:
    """Kills: rows of the weight used where something acts on the head's output."""
    bias = torch.randn(95) * 3
    handle = model.lm_head.register_forward_hook(lambda *call: call[2] + bias)
    try:
        expected = family.draw_stock(model, do_sample=False)
        sjd2.accelerate(model, window=6)
        drawn = family.draw(model, do_sample=False)
    finally:
        handle.remove()
    assert torch.equal(drawn, expected)
    assert not torch.equal(drawn, family.draw(model, do_sample=False))


class Packed(nn.Linear):
    """A head whose weight is not what it computes with, as quantised ones are."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__(4, 2, bias=False)
        self.table = head.weight

    def forward(self, hidden: Tensor) -> Tensor:
        return nn.functional.linear(hidden, self.table)


def test_a_head_that_is_packed_is_called(family: Family, model: Any) -> None:
    """Kills: rows of a packed weight taken for rows of the head."""
    expected = family.draw(sjd2.accelerate(model, window=6), do_sample=False)
    packed = family.make()
    packed.lm_head = Packed(packed.lm_head)
    sjd2.accelerate(packed, window=6)
    assert torch.equal(family.draw(packed, do_sample=False), expected)


def test_only_rows_of_image_tokens_are_computed(family: Family, model: Any) -> None:
    """Kills: the whole head computed and cut."""
    known = family_of(model)
    hidden = torch.randn(1, 2, 32)
    logits = known.logits(hidden)
    codes, grammar = len(family.image), len(known.ids) - len(family.image)
    assert 3 <= grammar <= 4
    ids = sorted(family.image)
    torch.testing.assert_close(logits[..., :codes], model.lm_head(hidden)[..., ids])
    known.request(*family.prompts()[:1])
    with torch.no_grad():
        assert known.logits(hidden).shape == (1, 2, codes + grammar)
    assert known.embedding_table().shape == (codes + grammar, 32)


def test_trained_heads_are_not_remembered(family: Family, model: Any) -> None:
    """Kills: a copy of the head's rows that training does not reach."""
    known = family_of(model)
    known.request(*family.prompts()[:1])
    known.logits(torch.randn(1, 1, 32)).amax().backward()
    gradient, model.lm_head.weight.grad = model.lm_head.weight.grad, None
    assert gradient[list(family.image)].abs().sum() > 0


def test_emu3_makes_pictures_of_the_size_that_was_asked_for() -> None:
    """Kills: height and width exchanged; a row of ends of line left in the picture."""
    model = sjd2.accelerate(tiny_emu3(), window=9)
    ids, _ = EMU3.prompts()
    tokens = EMU3.draw(model, seed=1)[:, ids.shape[1] :]
    layout = EMU3.layout
    pixels = model.decode_image_tokens(
        image_tokens=tokens, height=layout.height, width=layout.width
    )
    assert pixels.shape == (3, 3, 2 * layout.height, 2 * layout.width)
    codes = EMU3_IMAGE + 39 - layout.take(tokens)
    assert torch.equal(pixels, model.model.vqmodel.decode(codes))


@pytest.mark.parametrize("name", ["lumina", "anole"])
def test_chameleon_tells_the_codes_of_its_pictures(name: str) -> None:
    """Kills: rows in another order, ends of line among the codes, ids taken for codes."""
    family = {"lumina": LUMINA, "anole": ANOLE}[name]
    model = sjd2.accelerate(tiny_chameleon(), window=9)
    sequences = family.draw(model, seed=1)
    width = family.prompts()[0].shape[1]
    known = family_of(model)
    codes = known.codes(sequences)
    layout = family.layout
    assert codes.shape == (3, layout.height, layout.width)
    code_of = model.model.vocabulary_mapping.bpe2img
    for row in range(layout.height):
        start = width + row * layout.row_width
        tokens = sequences[0, start : start + layout.width].tolist()
        assert codes[0, row].tolist() == [code_of[token] for token in tokens]
    with pytest.raises(ValueError, match="cut short"):
        known.codes(sequences[:, : -len(layout.after) - layout.row_width])
    with pytest.raises(ValueError, match="one column"):
        known.codes(sequences[:, width:])


class Processor:
    """Makes tensors of pictures, as an image processor does: here of grey levels."""

    def image_processor(self, images: list[Image.Image], return_tensors: str) -> dict[str, Tensor]:
        assert return_tensors == "pt"
        pixels = [torch.tensor(list(image.tobytes())).view(image.height, -1) for image in images]
        levels = (torch.stack(pixels) / 255).unsqueeze(1).repeat(1, 3, 1, 1)
        sizes = torch.tensor([[image.height, image.width] for image in images])
        return {"pixel_values": levels, "image_sizes": sizes}


def grey(width: int, height: int) -> Image.Image:
    return Image.frombytes("L", (width, height), bytes(range(width * height)))


def test_emu3_reads_pictures_as_it_draws_them() -> None:
    """Kills: codes taken for ids, rows without their ends, a picture of another size let in."""
    model = tiny_emu3()
    known = family_of(model)
    geometry = known.geometry_of(EMU3.layout)
    tokens = known.encode([grey(10, 8), grey(10, 8)], Processor(), geometry)
    assert tokens.shape == (2, EMU3.layout.length)
    forced = EMU3.layout.forced()
    assert torch.equal(known.ids[tokens[0]][forced >= 0], forced[forced >= 0])
    pixels = Processor().image_processor([grey(10, 8)], "pt")
    codes = model.model.vqmodel.encode(**pixels).image_tokens[0]
    assert torch.equal(EMU3.layout.take(known.ids[tokens])[0], EMU3_IMAGE + 39 - codes)
    with pytest.raises(ValueError, match=r"\(4, 4\) tokens"):
        known.encode([grey(8, 8)], Processor(), geometry)


def test_chameleon_reads_pictures_as_it_draws_them() -> None:
    """Kills: codes taken for ids; a picture of another size let in."""
    model = tiny_chameleon()
    known = family_of(model)
    tokens = known.encode([grey(16, 16)], Processor(), known.geometry)
    assert tokens.shape == (1, ANOLE.layout.length)
    pixels = Processor().image_processor([grey(16, 16)], "pt")["pixel_values"]
    expected = model.model.get_image_tokens(pixels)
    assert torch.equal(known.ids[tokens][:, :-1], expected.long())
    with pytest.raises(ValueError, match="8 tokens, the model's 16"):
        known.encode([grey(16, 8)], Processor(), known.geometry)


def test_an_adapter_and_a_corrector_change_no_token(family: Family, model: Any) -> None:
    """Drafts as noise, drafts re-drafted, by random networks of large norm: still the model's own.

    Kills: an adapter that acts on clean inputs, a fixed token fed as noise, or re-drafted; tokens
    that change their numbers with the layout.
    """
    torch.manual_seed(0)
    adapter, corrector = sjd2.new_adapter(model, rank=2), sjd2.new_corrector(model)
    with torch.no_grad():
        for parameter in (*adapter.parameters(), *corrector.parameters()):
            parameter.normal_()
    settings = {"guidance_scale": 2.0, "seed": 4}
    sjd2.accelerate(model, method="ar")
    expected = family.draw(model, **settings)
    sjd2.accelerate(model, method="sjd2", adapter=adapter, verify="gumbel", window=9)
    assert torch.equal(family.draw(model, **settings), expected)
    assert sjd2.decoding_stats(model).method == "sjd2"
    sjd2.accelerate(model, adapter=None, corrector=corrector, verify="gumbel", window=9)
    assert torch.equal(family.draw(model, **settings), expected)
