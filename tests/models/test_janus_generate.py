"""Janus through its own `generate`: the same arguments, the same tokens, clear refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    CompileConfig,
    GenerationConfig,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
)

import sjd2
from tests.janus_model import BOI, BOS, LENGTH, MASK, PAD, PROMPTS, VOCAB, draw, tiny_janus

METHODS = [{"method": "ar"}, {"window": 2}, {"window": 7}, {"window": 64}, {"window": 500}]


@pytest.mark.parametrize("options", METHODS)
@pytest.mark.parametrize("batch", [1, 3])
def test_greedy_equals_stock_generate(janus: Any, options: dict[str, Any], batch: int) -> None:
    """Kills: positions off by one, a padded row read as text, guidance halves swapped."""
    expected = draw(janus, slice(0, batch), do_sample=False)
    sjd2.accelerate(janus, **options)
    assert torch.equal(draw(janus, slice(0, batch), do_sample=False), expected)


def test_greedy_equals_stock_generate_under_eager_attention() -> None:
    """Kills: a boolean mask handed to eager attention, which would add it."""
    model = tiny_janus("eager")
    expected = draw(model, do_sample=False)
    sjd2.accelerate(model, window=16)
    assert torch.equal(draw(model, do_sample=False), expected)


def test_a_janus_loaded_with_flash_attention_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills: a name that is looked for in another configuration than the decoder's."""
    model = tiny_janus()
    expected = draw(model, do_sample=False)
    sjd2.accelerate(model, window=16)
    config = model.model.language_model.config
    monkeypatch.setattr(config, "_attn_implementation", "flash_attention_2")
    assert torch.equal(draw(model, do_sample=False), expected)


def test_sampling_settings_mean_what_they_mean_upstream(janus: Any) -> None:
    """With top_k=1 or a tiny top_p sampling is greedy, however hot.

    Kills: top-k after temperature on the wrong axis, top-p that keeps the tail.
    """
    expected = draw(janus, do_sample=False)
    sjd2.accelerate(janus, window=8)
    assert torch.equal(draw(janus, top_k=1, temperature=3.0), expected)
    assert torch.equal(draw(janus, top_k=0, top_p=1e-6), expected)
    assert torch.equal(draw(janus, top_k=0, temperature=1e-4), expected)


def test_transformers_default_top_k_stays(janus: Any) -> None:
    """Upstream samples from the 50 best unless told otherwise; so do we.

    Kills: a default of our own.
    """
    sjd2.accelerate(janus, seed=1)
    request = sjd2.models.family_of(janus).request(
        input_ids=PROMPTS, generation_mode="image", do_sample=True, guidance_scale=2.0
    )
    assert request.sampling.top_k == 50


def test_guidance_one_means_no_unconditional_rows(janus: Any) -> None:
    """Kills: a doubled batch where nothing is guided."""
    request = sjd2.models.family_of(janus).request(
        input_ids=PROMPTS, generation_mode="image", do_sample=True, guidance_scale=1.0
    )
    assert len(request.prompt.lengths) == len(PROMPTS)


def test_num_return_sequences_draws_each_prompt_several_times(janus: Any) -> None:
    """Kills: prompts tiled instead of repeated; one seed for all."""
    sjd2.accelerate(janus, window=8)
    several = draw(janus, slice(0, 2), num_return_sequences=2, seed=[3, 4, 5, 6])
    first = draw(janus, slice(0, 1), seed=[4])
    second = draw(janus, slice(1, 2), seed=[5])
    assert torch.equal(several[1:2], first)
    assert torch.equal(several[2:3], second)
    assert not torch.equal(several[0], several[1])


def test_an_int_seed_counts_up_over_the_images(janus: Any) -> None:
    """Kills: every image of a call with the same seed."""
    sjd2.accelerate(janus, window=8)
    assert torch.equal(draw(janus, seed=7), draw(janus, seed=[7, 8, 9]))


def test_without_a_seed_manual_seed_decides(janus: Any) -> None:
    """Kills: a fixed default seed; randomness that `torch.manual_seed` cannot repeat."""
    sjd2.accelerate(janus, window=8)
    torch.manual_seed(5)
    first, second = draw(janus), draw(janus)
    torch.manual_seed(5)
    assert torch.equal(draw(janus), first)
    assert not torch.equal(first, second)


def test_return_dict_and_a_generation_config_are_honoured(janus: Any) -> None:
    """Kills: `return_dict_in_generate` dropped; a config object ignored."""
    sjd2.accelerate(janus, window=8)
    config = GenerationConfig(do_sample=False, guidance_scale=3.0, return_dict_in_generate=True)
    output = janus.generate(
        PROMPTS[:3], MASK[:3], generation_mode="image", generation_config=config
    )
    assert torch.equal(output.sequences, draw(janus, do_sample=False))


def test_text_mode_is_the_models_own(janus: Any) -> None:
    """Kills: a hook that swallows calls that draw nothing."""
    options = {"max_new_tokens": 5, "do_sample": False}
    expected = janus.generate(input_ids=PROMPTS[:1], attention_mask=MASK[:1], **options)
    sjd2.accelerate(janus)
    text = janus.generate(input_ids=PROMPTS[:1], attention_mask=MASK[:1], **options)
    assert torch.equal(text, expected)


def test_beam_search_falls_through_with_a_warning(janus: Any) -> None:
    """Kills: beams silently ignored."""
    sjd2.accelerate(janus)
    with pytest.warns(UserWarning, match="beam"), pytest.raises(ValueError, match="num_beams"):
        draw(janus, num_beams=2, do_sample=False)


def add_bias(input_ids: Tensor, scores: Tensor) -> Tensor:
    return scores + torch.arange(VOCAB).float() / 10


class NoRepeat:
    """Forbids the token before; needs the true prefix of every column, drafts included."""

    def __init__(self) -> None:
        self.prefixes: set[tuple[int, ...]] = set()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.prefixes.update(map(tuple, input_ids.tolist()))
        return scores.scatter(1, input_ids[:, -1:].clamp(max=VOCAB - 1), -torch.inf)


@pytest.mark.parametrize("options", METHODS)
def test_an_additive_logits_processor_equals_stock(janus: Any, options: dict[str, Any]) -> None:
    """Kills: processors skipped, or run on half of the guidance rows."""
    processors = LogitsProcessorList([add_bias])
    expected = draw(janus, do_sample=False, logits_processor=LogitsProcessorList([add_bias]))
    sjd2.accelerate(janus, **options)
    assert torch.equal(draw(janus, do_sample=False, logits_processor=processors), expected)
    assert len(processors) == 1, "upstream appends its guidance to the caller's list; we must not"


@pytest.mark.parametrize("options", [{"window": 5}, {"window": 64}])
def test_a_prefix_dependent_processor_sees_every_prefix(
    janus: Any, options: dict[str, Any]
) -> None:
    """Same-seed tokens agree with one-token-a-forward decoding under the same processor.

    Kills: drafts left out of the prefix, rows misaligned, committed tokens missing.
    """
    sjd2.accelerate(janus, method="ar")
    expected = draw(janus, seed=1, logits_processor=[NoRepeat()])
    sjd2.accelerate(janus, verify="gumbel", **options)
    processor = NoRepeat()
    tokens = draw(janus, seed=1, logits_processor=[processor])
    assert torch.equal(tokens, expected)
    assert (tokens[:, 1:] != tokens[:, :-1]).all()
    bare = [tuple(token for token in prefix if token != PAD) for prefix in processor.prefixes]
    assert all(prefix[0] == BOS for prefix in bare)


def test_a_processor_of_transformers_works(janus: Any) -> None:
    """Kills: 3-D scores or misshapen prefixes handed to a processor."""
    sjd2.accelerate(janus, window=8)
    tokens = draw(janus, logits_processor=[RepetitionPenaltyLogitsProcessor(1.0)], seed=1)
    assert torch.equal(tokens, draw(janus, logits_processor=[add_bias][:0], seed=1))


REFUSALS = [
    ({"temperature": -1.0}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"top_p": 0.0}, "top_p"),
    ({"guidance_scale": float("nan")}, "guidance_scale"),
    ({"guidance_scale": 0.5}, "guidance_scale"),
    ({"output_hidden_states": True}, "output_hidden_states"),
    ({"repetition_penalty": 1.3}, "repetition_penalty"),
    ({"past_key_values": object()}, "past_key_values"),
    ({"cache": object()}, "cache"),
    ({"max_new_tokens": 5}, "64 tokens"),
    ({"cache_implementation": "offloaded"}, "cache_implementation"),
    ({"seed": [1, 2]}, "2 entries.*3 images"),
    ({"seed": -1}, "seed"),
    ({"seed": 1.5}, "seed"),
]


SETTINGS = {
    "repetition_penalty": 1.3,
    "suppress_tokens": [3, 4],
    "begin_suppress_tokens": [3],
    "min_new_tokens": 5,
    "min_length": 70,
    "no_repeat_ngram_size": 2,
    "bad_words_ids": [[3, 4]],
    "sequence_bias": [[[3], 2.0]],
    "forced_eos_token_id": 7,
    "exponential_decay_length_penalty": (2, 1.1),
}


@pytest.mark.parametrize("way", ["argument", "generation_config", "of the model"])
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_for_words_are_refused_wherever_they_come_from(
    monkeypatch: pytest.MonkeyPatch, name: str, way: str
) -> None:
    """Kills: what lies in the model's generation_config silently ignored."""
    model = sjd2.accelerate(tiny_janus())
    model.generation_config.eos_token_id = 9
    forbid_forwards(model, monkeypatch)
    options: dict[str, Any] = {name: SETTINGS[name]}
    if way == "generation_config":
        settings = {"do_sample": True, "guidance_scale": 3.0, **options}
        options = {"generation_config": GenerationConfig(**settings)}
    elif way == "of the model":
        setattr(model.generation_config, name, options.pop(name))
    with pytest.raises(ValueError, match="cannot be honoured when a Janus draws"):
        draw(model, **options)


def test_warpers_that_the_sampler_lacks_are_honoured_wherever_they_come_from(janus: Any) -> None:
    """Kills: min-p ignored where it lies in the model's generation_config."""
    expected = draw(janus, do_sample=False)
    assert torch.equal(draw(janus, min_p=1.0), expected)  # upstream
    sjd2.accelerate(janus, window=8, seed=3)
    assert torch.equal(draw(janus, min_p=1.0, temperature=3.0), expected)
    plain, mild = draw(janus), draw(janus, min_p=0.3)
    assert not torch.equal(mild, plain)
    model = tiny_janus()
    model.generation_config.min_p = 0.3
    assert torch.equal(draw(sjd2.accelerate(model, window=8, seed=3)), mild)


@pytest.mark.parametrize(
    "options",
    [
        {"cache_implementation": "dynamic"},
        {"cache_implementation": "static"},
        {"compile_config": CompileConfig()},
        {"max_time": 3600.0},
        {"max_new_tokens": LENGTH},
        {"max_length": PROMPTS.shape[1] + LENGTH},
    ],
)
def test_arguments_that_change_nothing_are_taken(janus: Any, options: dict[str, Any]) -> None:
    """Kills: a refusal of what the other families take."""
    expected = draw(janus, do_sample=False)
    sjd2.accelerate(janus, window=8)
    assert torch.equal(draw(janus, do_sample=False, **options), expected)


def test_time_that_is_up_ends_a_picture(janus: Any) -> None:
    """Kills: a limit that is taken and dropped."""
    sjd2.accelerate(janus, window=8)
    cut = draw(janus, do_sample=False, max_time=1e-6)
    assert cut.shape[1] < LENGTH
    assert torch.equal(cut, draw(janus, do_sample=False)[:, : cut.shape[1]])


def test_an_end_of_text_token_among_codes_is_a_code(janus: Any) -> None:
    """Kills: a picture that ends where a code has the number of a word."""
    sjd2.accelerate(janus, window=8)
    expected = draw(janus, do_sample=False)
    code = int(expected[0, 5])
    assert torch.equal(draw(janus, do_sample=False, eos_token_id=code), expected)


def forbid_forwards(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a forward ran before the arguments were checked")

    monkeypatch.setattr(model.model.language_model, "forward", refuse)


@pytest.mark.parametrize(("options", "message"), REFUSALS)
def test_what_cannot_be_honoured_is_refused_before_any_forward(
    janus: Any, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    """Kills: an argument silently dropped, a check that comes after the work."""
    sjd2.accelerate(janus)
    forbid_forwards(janus, monkeypatch)
    with pytest.raises(ValueError, match=message):
        draw(janus, **options)


BAD_PROMPTS = {
    "missing": (None, None, "input_ids"),
    "float": (PROMPTS.float(), MASK, "dtype"),
    "flat": (PROMPTS[0], MASK[0], "shape"),
    "empty": (PROMPTS[:, :0], MASK[:, :0], "shape"),
    "device": (PROMPTS.to("meta"), MASK, "is on meta"),
    "mask-shape": (PROMPTS, MASK[:, 1:], "attention_mask: shape"),
    "padded-right": (PROMPTS, MASK.flip(1), "padded on the left"),
    "unknown-token": (PROMPTS + 98, MASK, r"tokens must be in 0\.\.98"),
    "too-long": (torch.full((1, 65), BOI), None, "65 tokens.*room for 64"),
}


@pytest.mark.parametrize("name", BAD_PROMPTS)
def test_a_bad_prompt_is_refused_before_any_forward(
    janus: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Kills: an index error from inside an embedding, or a wrong picture without a word."""
    ids, mask, message = BAD_PROMPTS[name]
    sjd2.accelerate(janus)
    forbid_forwards(janus, monkeypatch)
    with pytest.raises(ValueError, match=message):
        janus.generate(ids, mask, generation_mode="image", do_sample=True, guidance_scale=2.0)


def test_guidance_without_its_tokens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills: unconditional rows made of the wrong token."""
    model = sjd2.accelerate(tiny_janus())
    model.generation_config.generation_kwargs = {}
    forbid_forwards(model, monkeypatch)
    with pytest.raises(ValueError, match="boi_token_id"):
        draw(model)


def test_a_missing_guidance_scale_warns_and_is_upstreams(janus: Any) -> None:
    """Kills: another default than stock generate's."""
    sjd2.accelerate(janus, window=8)
    with pytest.warns(UserWarning, match="guidance_scale"):
        tokens = draw(janus, guidance_scale=None, seed=1)
    assert torch.equal(tokens, draw(janus, guidance_scale=5.0, seed=1))


def test_the_models_dtype_and_shape_come_back(janus: Any) -> None:
    """Kills: int32 prompts answered in int64; an extra column."""
    sjd2.accelerate(janus, window=8)
    tokens = janus.generate(
        PROMPTS.int(), MASK, generation_mode="image", do_sample=True, guidance_scale=2.0
    )
    assert tokens.shape == (len(PROMPTS), LENGTH)
    assert tokens.dtype == torch.int32
