"""The arguments of `generate` mean what they mean upstream, for Emu3, Lumina-mGPT and Anole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation.streamers import BaseStreamer

import sjd2
from sjd2.models import family_of
from tests.family_models import PAD, Family


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
