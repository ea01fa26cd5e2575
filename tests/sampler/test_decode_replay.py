"""Teacher-forced replay: the laws that tokens were committed from are the model's own."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

import sjd2
from sjd2.kernels import Rules
from sjd2.kernels.reference.target import target_log_probs
from sjd2.sampler import decode
from tests.janus_model import BOI, BOS, LENGTH, MASK, PAD, PROMPTS, VOCAB, draw


def replayed_log_probs(model: Any, tokens: Tensor, scale: float) -> Tensor:
    """Target log-probabilities of every position, from one cacheless forward per picture."""
    laws = []
    for ids, mask, picture in zip(PROMPTS, MASK, tokens, strict=False):
        conditional = ids[mask.bool()]
        kept = (conditional == BOS) | (conditional == BOI)
        prompt = torch.stack((conditional, torch.where(kept, conditional, PAD)))
        image = model.prepare_embeddings_for_image_generation(picture[None, :-1]).expand(2, -1, -1)
        inputs = torch.cat((model.get_input_embeddings()(prompt), image), dim=1)
        hidden = model.model.language_model(inputs_embeds=inputs, use_cache=False).last_hidden_state
        logits = model.model.generation_head(hidden[:, -LENGTH:])
        laws.append(target_log_probs(logits, Rules(guidance_scale=scale)))
    return torch.cat(laws)


@pytest.mark.parametrize(
    "options",
    [{"window": 3}, {"window": 16}, {"window": 64}, {"coupling": "independent"}, {"method": "ar"}],
)
@torch.no_grad()
def test_replay_gives_the_laws_that_tokens_were_committed_from(
    janus: Any, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Kills: a rejected entry left in the cache, a wrong position, a law of another column."""
    loop = sys.modules[decode.__module__]
    committed = torch.full((3, LENGTH, VOCAB), torch.nan)
    op = loop.verify_window

    def spy(*args: Any, **at: Any) -> Any:
        verdict = op(*args, **at)
        for index, seed in enumerate(at["seed"].tolist()):
            first, count = int(at["position"][index]), int(verdict.accept_length[index])
            committed[seed, first : first + count] = verdict.window.law[index, :count]
        return verdict

    monkeypatch.setattr(loop, "verify_window", spy)
    sjd2.accelerate(janus, **options)
    tokens = draw(janus, top_k=0, seed=0)
    torch.testing.assert_close(committed, replayed_log_probs(janus, tokens, 3.0), atol=1e-4, rtol=0)
