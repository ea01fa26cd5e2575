"""Teacher-forced replay: the distributions that tokens were committed from are the model's own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sjd2.config import DecodingConfig
from sjd2.kernels import Rules, Verdict
from sjd2.kernels.target.eager import target_log_probs
from sjd2.patching import installed
from sjd2.sampler import resolve
from sjd2.sampler.drafts import Slots
from sjd2.sampler.method import verify
from sjd2.sampler.state import DecodingState
from tests.janus_model import BOI, BOS, LENGTH, MASK, PAD, PROMPTS, VOCAB, draw


def replayed_log_probs(model: Any, tokens: Tensor, scale: float) -> Tensor:
    """Target log-probabilities of every position, from one cacheless forward per picture."""
    targets = []
    for ids, mask, picture in zip(PROMPTS, MASK, tokens, strict=False):
        conditional = ids[mask.bool()]
        kept = (conditional == BOS) | (conditional == BOI)
        prompt = torch.stack((conditional, torch.where(kept, conditional, PAD)))
        image = model.prepare_embeddings_for_image_generation(picture[None, :-1]).expand(2, -1, -1)
        inputs = torch.cat((model.get_input_embeddings()(prompt), image), dim=1)
        hidden = model.model.language_model(inputs_embeds=inputs, use_cache=False).last_hidden_state
        logits = model.model.generation_head(hidden[:, -LENGTH:])
        targets.append(target_log_probs(logits, Rules(guidance_scale=scale)))
    return torch.cat(targets)


@pytest.mark.parametrize(
    "options",
    [{"window": 3}, {"window": 16}, {"window": 64}, {"coupling": "independent"}, {"method": "ar"}],
)
@torch.no_grad()
def test_replay_gives_the_distributions_that_tokens_were_committed_from(
    janus: Any, options: dict[str, Any]
) -> None:
    """Kills: a rejected entry left in the cache, a wrong position, a distribution of another
    column.
    """
    committed = torch.full((3, LENGTH, VOCAB), torch.nan)

    def spy(logits: Tensor, state: DecodingState, slots: Slots) -> Verdict:
        verdict = verify(logits, state, slots)
        for index, seed in enumerate(state.seed.tolist()):
            first, count = int(state.position[index]), int(verdict.accept_length[index])
            committed[seed, first : first + count] = verdict.window.draft_logits[index, :count]
        return verdict

    method = replace(resolve(DecodingConfig(**options)), rule=spy)
    with installed(janus, method):
        tokens = draw(janus, top_k=0, seed=0)
    torch.testing.assert_close(committed, replayed_log_probs(janus, tokens, 3.0), atol=1e-4, rtol=0)
