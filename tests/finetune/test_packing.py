"""Training sees what decoding saw: the same inputs, the same predictions, the same truth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import sjd2
from sjd2.companions import Companions
from sjd2.config import DecodingConfig
from sjd2.finetune.objective import drawing_request, rising_noise
from sjd2.finetune.packing import Windows, hidden_behind, packed_log_probs
from sjd2.finetune.rollouts import Rollouts
from sjd2.kernels.target.eager import guide
from sjd2.models import family_of
from sjd2.sampler import decode, resolve
from sjd2.sampler.noise import NoisyDrafts
from sjd2.sampler.watchers import Iteration, OnIteration
from tests.janus_model import LENGTH, MASK, PROMPTS
from tests.sampler.test_decode_replay import replayed_log_probs
from tests.sampler.test_denoising import loud_adapter

SAMPLING = {
    "generation_mode": "image",
    "do_sample": True,
    "guidance_scale": 3.0,
    "top_k": 0,
}
INPUTS = {"input_ids": PROMPTS[:3], "attention_mask": MASK[:3]}
CONFIG = DecodingConfig(window=12, denoising_steps=2, schedule="linear")


@torch.no_grad()
def test_packed_windows_predict_what_decoding_predicted(janus: Any) -> None:
    """Kills: a window that sees another, or the picture behind its start; shifted positions; a
    level told to the wrong slot; an adapter that acts on the clean copy of the picture.
    """
    family, adapter = family_of(janus), loud_adapter(janus)
    for weight in adapter.parameters():
        weight.mul_(0.02)
    request = drawing_request(family, INPUTS, SAMPLING)
    seen: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def watch(iteration: Iteration) -> None:
        state = iteration.state
        if len(state.rows) == 3 and 1 < state.width == CONFIG.window:
            noise = state.drafts
            assert isinstance(noise, NoisyDrafts)
            timestep = noise.timestep[:, :-1]
            target = guide(iteration.logits, 3.0).log_softmax(-1)
            seen.append((state.position.clone(), noise.embeddings[:, :-1], timestep, target))

    method = resolve(CONFIG, Companions(adapter=adapter))
    tokens, _ = decode(family, request, method, [5, 6, 7], [OnIteration(watch)])
    seen = seen[:6:2]
    start = torch.stack([position for position, *_ in seen], dim=1)
    drafts = torch.stack([fed for _, fed, _, _ in seen], dim=1)
    timestep = torch.stack([level for *_, level, _ in seen], dim=1)
    valid = torch.ones_like(timestep, dtype=torch.bool)
    windows = Windows(start, drafts, timestep, valid)
    predicted, truth = packed_log_probs(family, adapter, request.prompt, tokens, windows, 3.0)
    for at, (position, _, _, target) in enumerate(seen):
        torch.testing.assert_close(predicted[:, at], target[:, 1:], atol=2e-4, rtol=1e-4)
        replayed = replayed_log_probs(janus, tokens, 3.0)
        for row, first in enumerate(position.tolist()):
            expected = replayed[row, first + 1 : first + CONFIG.window]
            torch.testing.assert_close(truth[row, at], expected, atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_hidden_behind_is_a_plain_forward(janus: Any) -> None:
    """Kills: padding of prompts that is seen; a state of the wrong column."""
    family, adapter = family_of(janus), sjd2.new_adapter(janus)
    prompt = drawing_request(family, INPUTS, SAMPLING).prompt
    tokens = torch.randint(50, (3, LENGTH), generator=torch.Generator().manual_seed(0))
    fed = family.embedding_table()[tokens[:, :-1]].repeat(2, 1, 1)
    noisy = torch.zeros(fed.shape[:2], dtype=torch.bool)
    logits = family.logits(hidden_behind(family, adapter, prompt, fed, noisy))
    target = guide(logits, 3.0).log_softmax(-1)
    torch.testing.assert_close(target, replayed_log_probs(janus, tokens, 3.0), atol=1e-4, rtol=0)


def test_rollouts_go_on_where_they_stopped(janus: Any) -> None:
    """Kills: batches that depend on how many were made before, or on the global generator."""
    adapter = sjd2.new_adapter(janus)

    def batches(start: int, count: int) -> list[dict[str, Any]]:
        rollouts = Rollouts(
            family_of(janus),
            adapter,
            INPUTS,
            SAMPLING,
            CONFIG,
            batch=2,
            windows=3,
            reuse=2,
            seed=1,
        )
        rollouts.start = start
        return [batch for batch, _ in zip(rollouts, range(count), strict=False)]

    whole, rest = batches(0, 4), batches(3, 1)
    assert torch.equal(whole[3]["tokens"], rest[0]["tokens"])
    for ours, theirs in zip(whole[3]["windows"], rest[0]["windows"], strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(whole[2]["tokens"], whole[3]["tokens"])
    assert not torch.equal(whole[1]["tokens"], whole[2]["tokens"])
    windows = whole[0]["windows"]
    assert windows.valid.any()
    assert (windows.timestep > 0).any()
    assert not windows.timestep[~windows.valid].any()


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_noise_rises_by_one_level_and_falls_to_none(steps: int) -> None:
    """Kills: levels that skip, a tooth that never ends, rows that share a generator."""
    found = rising_noise(40, 200, steps, torch.arange(40))
    assert found[:, 0].tolist() == [0] * 40
    change = found.diff(dim=1)
    assert ((change == 0) | (change == 1) | (found[:, 1:] == 0)).all()
    assert found.unique().tolist() == list(range(steps + 1))
    assert ((change < 0).sum(dim=1) > 0).float().mean() > 0.3
    assert torch.equal(rising_noise(1, 200, steps, torch.tensor([7]))[0], found[7])
