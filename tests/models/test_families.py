"""Emu3, Lumina-mGPT and Anole: the tokens of upstream's own loop, in pictures of the right form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation.streamers import BaseStreamer

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
    """Kills: grammar tokens left in the law, where heat would find them."""
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


class Recent:
    """Forbids the image tokens among the last twelve: needs the prefix, prompt and drafts too."""

    def __init__(self, image: tuple[int, ...]) -> None:
        self.image = torch.tensor(image)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        recent = input_ids[:, -12:]
        recent = torch.where(torch.isin(recent, self.image), recent, PAD)
        return scores.scatter(1, recent, -torch.inf)


def processing(name: str, family: Family) -> dict[str, Any]:
    """Arguments of `generate` that change what is drawn."""
    some = family.image[3:30:4]
    return {
        "repetition penalty": {"repetition_penalty": 1.4},
        "bias": {
            "sequence_bias": [[[5, some[0]], 9.0], [[some[0], some[1]], 9.0], [[some[1]], 6.0]],
            "guidance_scale": 2.0,
        },
        "n-grams": {"no_repeat_ngram_size": 2, "guidance_scale": 2.0},
        "of one's own": {
            "logits_processor": LogitsProcessorList([Recent(family.image)]),
            "guidance_scale": 2.0,
        },
    }[name]


@pytest.mark.parametrize("window", [4, 50])
@pytest.mark.parametrize("name", ["repetition penalty", "bias", "n-grams", "of one's own"])
def test_processors_equal_stock_generate(
    family: Family, model: Any, name: str, window: int
) -> None:
    """Kills: a prefix in the sampler's numbers, padding that shifts from row to row, scores of the
    slice handed to a processor that knows the vocabulary.
    """
    settings = {"do_sample": False, **processing(name, family)}
    expected = family.draw_stock(model, **settings)
    without = {key: settings[key] for key in settings.keys() & {"do_sample", "guidance_scale"}}
    assert not torch.equal(expected, family.draw_stock(model, **without))
    sjd2.accelerate(model, window=window)
    assert torch.equal(family.draw(model, **settings), expected)


@pytest.mark.parametrize("window", [4, 50])
def test_a_constraint_of_the_callers_is_honoured(family: Family, model: Any, window: int) -> None:
    """Upstream's way to tell the grammar may stay in the call, and may forbid more than it.

    Kills: `prefix_allowed_tokens_fn` dropped, or asked about another picture of the batch.
    """
    ids, _ = family.prompts()
    grammar, few = family.constraint(ids.shape[1]), family.image

    def allowed(batch_id: int, prefix: Tensor) -> list[int]:
        tokens = grammar(batch_id, prefix)
        return tokens if len(tokens) == 1 else list(few[10 * batch_id : 10 * batch_id + 10])

    sjd2.accelerate(model, window=window)
    tokens = family.draw(model, seed=1, prefix_allowed_tokens_fn=allowed)[:, ids.shape[1] :]
    free = tokens[:, family.layout.forced() < 0]
    for row in range(3):
        assert torch.isin(free[row], torch.tensor(few[10 * row : 10 * row + 10])).all()


def test_warpers_that_the_sampler_lacks_run_in_their_order(family: Family, model: Any) -> None:
    """Kills: min-p dropped; temperature taken out of the middle of the list."""
    greedy = {"do_sample": False, "guidance_scale": 2.0}
    expected = family.draw_stock(model, **greedy)
    sjd2.accelerate(model, window=6)
    sampled = {"do_sample": True, "guidance_scale": 2.0, "seed": 2}
    assert torch.equal(family.draw(model, min_p=1.0, **sampled), expected)
    assert torch.equal(family.draw(model, min_p=1.0, temperature=3.0, **sampled), expected)
    assert torch.equal(family.draw(model, typical_p=0.99, top_k=1, **sampled), expected)
    mild = family.draw(model, min_p=0.2, **sampled)
    assert not torch.equal(mild, family.draw(model, **sampled))


def test_sampling_settings_mean_what_they_mean_upstream(family: Family, model: Any) -> None:
    """With top_k=1 or a tiny top_p sampling is greedy; and 50 is upstream's own top-k.

    Kills: warpers taken off the list and forgotten; a default of our own.
    """
    expected = family.draw_stock(model, do_sample=False)
    sjd2.accelerate(model, window=8)
    assert torch.equal(family.draw(model, top_k=1, temperature=3.0), expected)
    assert torch.equal(family.draw(model, top_p=1e-6), expected)
    ids, mask = family.prompts()
    request = family_of(model).request(ids, attention_mask=mask, do_sample=True, temperature=0.7)
    assert (request.sampling.top_k, request.sampling.temperature) == (50, 0.7)
    assert request.sampling.processors == ()


def test_num_return_sequences_draws_each_prompt_several_times(family: Family, model: Any) -> None:
    """Kills: prompts tiled instead of repeated; one seed for all."""
    sjd2.accelerate(model, window=8)
    several = family.draw(model, 2, num_return_sequences=2, seed=[3, 4, 5, 6], guidance_scale=2.0)
    again = family.draw(model, 2, seed=[4, 6], guidance_scale=2.0)
    assert torch.equal(several[1::2], again)
    assert not torch.equal(several[0], several[1])


def test_return_dict_and_a_generation_config_are_honoured(family: Family, model: Any) -> None:
    """Kills: `return_dict_in_generate` dropped; a config object ignored; prompts of int32."""
    sjd2.accelerate(model, window=8)
    config = GenerationConfig(do_sample=False, guidance_scale=3.0, return_dict_in_generate=True)
    ids, mask = family.prompts()
    output = model.generate(ids.int(), attention_mask=mask, generation_config=config)
    assert output.sequences.dtype == torch.int32
    expected = family.draw(model, do_sample=False, guidance_scale=3.0)
    assert torch.equal(output.sequences.long(), expected)


def test_text_is_the_models_own(family: Family, model: Any) -> None:
    """Kills: a hook that swallows calls that draw nothing, or hands on arguments of its own."""
    ids = torch.tensor([[1, 5, 6, 7]])
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 5, "do_sample": False}
    expected = model.generate(ids, **options)
    sjd2.accelerate(model)
    assert torch.equal(model.generate(ids, **options), expected)
    assert torch.equal(model.generate(ids, generation_mode="text", **options), expected)


@pytest.mark.parametrize("kind", ["beam search", "assisted generation"])
def test_other_ways_to_generate_fall_through_with_a_warning(
    family: Family, model: Any, kind: str
) -> None:
    """Kills: beams or an assistant silently ignored."""
    ids, mask = family.prompts(1)
    options = {"attention_mask": mask, "max_new_tokens": 3, "do_sample": False}
    options |= {"num_beams": 2} if kind == "beam search" else {"assistant_model": family.make()}
    expected = model.generate(ids, **options)
    sjd2.accelerate(model)
    with pytest.warns(UserWarning, match=f"{kind} is not accelerated"):
        assert torch.equal(model.generate(ids, **options), expected)


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
    known.lay_out(EMU3.layout)
    tokens = known.encode([grey(10, 8), grey(10, 8)], Processor())
    assert tokens.shape == (2, EMU3.layout.length)
    forced = EMU3.layout.forced()
    assert torch.equal(known.ids[tokens[0]][forced >= 0], forced[forced >= 0])
    pixels = Processor().image_processor([grey(10, 8)], "pt")
    codes = model.model.vqmodel.encode(**pixels).image_tokens[0]
    assert torch.equal(EMU3.layout.take(known.ids[tokens])[0], EMU3_IMAGE + 39 - codes)
    with pytest.raises(ValueError, match=r"\(4, 4\) tokens"):
        known.encode([grey(8, 8)], Processor())


def test_chameleon_reads_pictures_as_it_draws_them() -> None:
    """Kills: codes taken for ids; a picture of another size let in."""
    model = tiny_chameleon()
    known = family_of(model)
    tokens = known.encode([grey(16, 16)], Processor())
    assert tokens.shape == (1, ANOLE.layout.length)
    pixels = Processor().image_processor([grey(16, 16)], "pt")["pixel_values"]
    expected = model.model.get_image_tokens(pixels)
    assert torch.equal(known.ids[tokens][:, :-1], expected.long())
    with pytest.raises(ValueError, match="8 tokens, the model's 16"):
        known.encode([grey(16, 8)], Processor())


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


class Recorder(BaseStreamer):
    """Notes what a streamer is told."""

    def __init__(self) -> None:
        self.told: list[list[Any]] = []
        self.ended = 0

    def put(self, value: Tensor) -> None:
        self.told.append(value.tolist())

    def end(self) -> None:
        self.ended += 1


@pytest.mark.parametrize("window", [2, 7, 500])
def test_streamers_are_told_what_stock_generate_tells_them(
    family: Family, model: Any, window: int
) -> None:
    """Kills: rows told at their own pace, tokens told twice, the sampler's numbers for ids."""
    expected, ours = Recorder(), Recorder()
    family.draw_stock(model, do_sample=False, guidance_scale=2.0, streamer=expected)
    sjd2.accelerate(model, window=window)
    family.draw(model, do_sample=False, guidance_scale=2.0, streamer=ours)
    assert ours.told == expected.told
    assert ours.ended == expected.ended == 1


def test_embeddings_of_a_prompt_equal_stock_generate(family: Family, model: Any) -> None:
    """Kills: `inputs_embeds` dropped, or shifted against the padding."""
    ids, _ = family.prompts()
    torch.manual_seed(2)
    embeddings = model.get_input_embeddings()(ids).detach()
    embeddings = embeddings + torch.randn_like(embeddings)
    settings = {"do_sample": False, "guidance_scale": 2.0}
    plain = family.draw_stock(model, **settings)
    expected = family.draw_stock(model, inputs_embeds=embeddings, **settings)
    assert not torch.equal(expected, plain)
    sjd2.accelerate(model, window=7)
    assert torch.equal(family.draw(model, inputs_embeds=embeddings, **settings), expected)
