"""Scores, logits, stopping criteria and cached prompts mean what they mean upstream."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    MaxLengthCriteria,
    MaxTimeCriteria,
    StaticCache,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import sjd2
from sjd2.sampler.decode import forward
from tests.family_models import PAD, Family
from tests.janus_model import LENGTH, PROMPTS, draw
from tests.models.test_families_generate import Recorder
from tests.sampler.test_denoising import loud_adapter

OUTPUTS = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("window", [3, 50])
def test_greedy_scores_equal_stock_generate(
    family: Family, model: Any, window: int, guidance: float
) -> None:
    """Kills: distributions of drafts that were thrown away, of the column beside, of another
    picture of the batch; guidance left out of scores, or in logits.
    """
    settings = {"do_sample": False, "guidance_scale": guidance, **OUTPUTS}
    expected = family.draw_stock(model, **settings)
    sjd2.accelerate(model, window=window)
    drawn = family.draw(model, **settings)
    assert torch.equal(drawn.sequences, expected.sequences)
    assert len(drawn.scores) == len(drawn.logits) == family.layout.length
    for ours, theirs in zip(drawn.scores, expected.scores, strict=True):
        torch.testing.assert_close(ours, theirs.log_softmax(-1), atol=1e-4, rtol=1e-4)
    image = list(family.image)
    free = family.layout.forced() < 0
    # Chameleon's own forward hides image tokens from its head's output; its twin's does not.
    for at in free.nonzero().flatten().tolist():
        ours, theirs = drawn.logits[at][:, image], expected.logits[at][:, image]
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    transitions = model.compute_transition_scores(drawn.sequences, drawn.scores)
    assert transitions.shape == (3, family.layout.length)
    assert (transitions[:, ~free] == 0).all()


def test_sampled_scores_are_the_distribution_that_tokens_are_drawn_from(
    family: Family, model: Any
) -> None:
    """The logits through transformers' own warpers.

    Kills: scores before the warpers, or of a temperature squared.
    """
    sjd2.accelerate(model, window=9)
    drawn = family.draw(model, temperature=0.7, top_k=9, top_p=0.9, seed=1, **OUTPUTS)
    warpers = LogitsProcessorList(
        [TemperatureLogitsWarper(0.7), TopKLogitsWarper(9), TopPLogitsWarper(0.9)]
    )
    image = list(family.image)
    for at in (family.layout.forced() < 0).nonzero().flatten().tolist():
        target = warpers(drawn.sequences, drawn.logits[at][:, image]).log_softmax(-1)
        torch.testing.assert_close(drawn.scores[at][:, image], target, atol=1e-5, rtol=1e-5)
    assert model.compute_transition_scores(drawn.sequences, drawn.scores).isfinite().all()


def test_scores_come_after_processors_and_logits_before(family: Family, model: Any) -> None:
    """Kills: logits that processors have changed; scores that they have not."""

    def forbid(input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.index_fill(1, torch.tensor(family.image[::2]), -torch.inf)

    sjd2.accelerate(model, window=9)
    processors = LogitsProcessorList([forbid])
    drawn = family.draw(model, seed=1, guidance_scale=2.0, logits_processor=processors, **OUTPUTS)
    at = int((family.layout.forced() < 0).nonzero()[1])
    assert (drawn.scores[at][:, list(family.image[::2])] == -torch.inf).all()
    assert drawn.logits[at][:, list(family.image)].isfinite().all()


class StopsApart:
    """Stops pictures at steps of their own, as long as their prompts; notes what it is told."""

    def __init__(self, prompts: Tensor) -> None:
        self.width = prompts.shape[1]
        self.steps = 2 + (prompts != PAD).sum(dim=1)
        self.asked: list[list[list[int]]] = []
        self.scores: list[int | None] = []

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.asked.append(input_ids.tolist())
        self.scores.append(None if scores is None else len(scores))
        return input_ids.shape[1] - self.width >= self.steps


@pytest.mark.parametrize("eos", [None, 2])
@pytest.mark.parametrize("window", [2, 6, 50])
def test_stopping_criteria_equal_stock_generate(
    family: Family, model: Any, window: int, eos: int | None
) -> None:
    """Kills: a criterion asked of drafts, or of a picture ahead of the others; a stopped picture
    that goes on with its own tokens where upstream pads it.
    """
    ids, _ = family.prompts()
    theirs, ours = StopsApart(ids), StopsApart(ids)
    settings = {"do_sample": False, "guidance_scale": 2.0, **OUTPUTS}
    # Without an end of text upstream pads nothing, and its grammar cannot lose count.
    expected = family.draw_stock(
        model, stopping_criteria=StoppingCriteriaList([theirs]), **settings
    )
    sjd2.accelerate(model, window=window)
    drawn = family.draw(
        model, stopping_criteria=StoppingCriteriaList([ours]), eos_token_id=eos, **settings
    )
    steps = int(ours.steps.max())
    assert steps < family.layout.length
    assert len(drawn.scores) == len(drawn.logits) == steps
    assert ours.scores == theirs.scores == list(range(1, steps + 1))
    wanted = expected.sequences
    if eos is None:
        assert ours.asked == theirs.asked
    else:
        at = torch.arange(wanted.shape[1]) - ids.shape[1]
        wanted = wanted.masked_fill(at >= ours.steps[:, None], PAD)
    assert torch.equal(drawn.sequences, wanted)


def test_a_picture_stopped_early_saves_its_forwards(family: Family, model: Any) -> None:
    """Kills: a criterion that only cuts what was drawn to its end."""
    sjd2.accelerate(model, method="ar", seed=1)
    family.draw(model)
    whole = sjd2.decoding_stats(model)
    width = family.prompts()[0].shape[1]
    stop = StoppingCriteriaList([MaxLengthCriteria(width + 5)])
    assert family.draw(model, stopping_criteria=stop).shape == (3, width + 5)
    assert sjd2.decoding_stats(model).total_forward_passes == 5
    assert sjd2.decoding_stats(model).tokens == 15
    assert whole.total_forward_passes == family.layout.length
    at_once = family.draw(model, stopping_criteria=StoppingCriteriaList([MaxTimeCriteria(0.0)]))
    assert at_once.shape == (3, width + 1)
    assert family.draw(model, max_time=600.0).shape == (3, width + family.layout.length)


def cached(model: Any, family: Family, columns: int, kind: str) -> Any:
    """A cache of the first columns of the prompts, as upstream's `generate` would fill it."""
    ids, mask = family.prompts()
    cache = (
        DynamicCache(config=model.config)
        if kind == "dynamic"
        else StaticCache(config=model.config, max_cache_len=80)
    )
    options = {"attention_mask": mask[:, :columns], "use_cache": True}
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, :columns]
    with torch.no_grad():
        model(ids[:, :columns], position_ids=positions, past_key_values=cache, **options)
    return cache


@pytest.mark.filterwarnings("ignore:.*past_key_values.*")
@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("left", [0, 1, 3])
def test_a_cached_prompt_equals_stock_generate(
    family: Family,
    model: Any,
    left: int,
    guidance: float,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kills: a prompt that is read twice; entries of padding taken for a prompt's own; a cache
    handed to the rows of guidance; one that is written to.
    """
    settings = {"do_sample": False, "guidance_scale": guidance}
    cache = cached(model, family, family.prompts()[0].shape[1] - left, kind)
    before = copy.deepcopy(cache)
    if left:
        expected = family.draw_stock(model, past_key_values=copy.deepcopy(cache), **settings)
    else:
        expected = family.draw_stock(model, **settings)
    sjd2.accelerate(model, window=7)
    widths: list[int] = []

    def watched(model: Any, slots: torch.Tensor, state: Any) -> torch.Tensor:
        widths.append(slots.shape[1])
        return forward(model, slots, state)

    monkeypatch.setattr(sys.modules["sjd2.sampler.decode"], "forward", watched)
    assert torch.equal(family.draw(model, past_key_values=cache, **settings), expected)
    # The words of the tail are in the guidance's own context, which is cached by nobody.
    assert widths[0] == max(1, left, family.context if guidance > 1 else 0)
    for layer, untouched in zip(cache.layers, before.layers, strict=True):
        assert torch.equal(layer.keys, untouched.keys)
    # What is in the cache is what counts.
    for layer in cache.layers:
        layer.values.mul_(-3)
    assert not torch.equal(family.draw(model, past_key_values=cache, **settings), expected)


@pytest.mark.filterwarnings("ignore:.*past_key_values.*")
@pytest.mark.parametrize("name", ["rows", "longer", "layers", "kind"])
def test_a_cache_of_something_else_is_refused(family: Family, model: Any, name: str) -> None:
    """Kills: a picture drawn behind another prompt without a word."""
    ids, mask = family.prompts()
    cache = cached(model, family, ids.shape[1], "dynamic")
    sjd2.accelerate(model, window=7)
    options: dict[str, Any] = {"attention_mask": mask, "past_key_values": cache}
    if name == "rows":
        ids, options["attention_mask"] = ids[:2], mask[:2]
        message = "3 rows for 2 pictures"
    elif name == "longer":
        ids, options["attention_mask"] = ids[:, 1:], mask[:, 1:]
        message = "entries, but the prompts have"
    elif name == "layers":
        cache.layers.pop()
        message = "1 layers, but the model has 2"
    else:

        class Odd(type(cache.layers[0])):  # type: ignore[misc]
            pass

        cache.layers[0].__class__ = Odd
        message = "must be a DynamicCache or StaticCache"
    with pytest.raises(ValueError, match=message):
        model.generate(ids, **options)


class Noting:
    """A logits processor that changes nothing and notes the scores of every step."""

    def __init__(self) -> None:
        self.scores: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.scores.append(scores.clone())
        return scores


def test_janus_scores_are_those_of_its_own_loop(janus: Any) -> None:
    """Upstream returns the last step's alone, so they are taken from its loop.

    Kills: logits of the unconditional half; distributions of another column.
    """
    noted = Noting()
    expected = draw(janus, do_sample=False, logits_processor=LogitsProcessorList([noted]))
    sjd2.accelerate(janus, window=9)
    drawn = draw(janus, do_sample=False, **OUTPUTS)
    assert torch.equal(drawn.sequences, expected)
    assert len(drawn.scores) == len(drawn.logits) == LENGTH
    for at, both in enumerate(noted.scores):
        conditional, unconditional = both.chunk(2)
        target = (unconditional + 3 * (conditional - unconditional)).log_softmax(-1)
        torch.testing.assert_close(drawn.logits[at], conditional, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(drawn.scores[at], target, atol=1e-3, rtol=1e-3)


def test_scores_are_those_of_clean_contexts_whatever_the_adapter(janus: Any) -> None:
    """Kills: distributions of columns behind noise."""
    sjd2.accelerate(janus, method="ar")
    expected = draw(janus, seed=1, **OUTPUTS)
    sjd2.accelerate(janus, verify="gumbel", window=9, adapter=loud_adapter(janus), method="sjd2")
    drawn = draw(janus, seed=1, **OUTPUTS)
    assert torch.equal(drawn.sequences, expected.sequences)
    for ours, theirs in zip(drawn.scores, expected.scores, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


def test_janus_stops_and_streams(janus: Any) -> None:
    """Kills: criteria dropped where upstream has none; a picture's tokens without its prompt."""
    sjd2.accelerate(janus, window=9)
    whole = draw(janus, seed=1)
    criterion = StopsApart(PROMPTS[:3])
    stopped = draw(janus, seed=1, stopping_criteria=StoppingCriteriaList([criterion]))
    assert torch.equal(stopped, whole[:, : stopped.shape[1]])
    assert stopped.shape[1] == criterion.steps.max() < LENGTH
    texts = torch.cat((PROMPTS[:3], stopped), dim=1).tolist()
    assert criterion.asked[-1] == texts

    streamer = Recorder()
    assert torch.equal(draw(janus, seed=1, streamer=streamer), whole)
    assert streamer.told == [PROMPTS[:3].tolist(), *whole.T.tolist()]
    assert streamer.ended == 1
