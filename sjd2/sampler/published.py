"""The rules of SJD2 as published, for comparison: they are not exact, and the tests show it.

Two things bias them. Drafts are verified behind inputs that are still noise, so `p` is not that of
the tokens that are committed. And a clean draft that was not accepted stays if its ratio is at
least one half, while its `q` is set to the new `p`, from which it was not drawn.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sjd2.kernels import Verdict, Window, verify_window
from sjd2.kernels.target.eager import target_log_probs
from sjd2.kernels.verify_window.eager import draft_log_probs
from sjd2.sampler.drafts import Slots
from sjd2.sampler.noise import NoisyDrafts
from sjd2.sampler.state import DecodingState

_RETAINED = math.log(0.5)


def verify_as_published(logits: Tensor, state: DecodingState, slots: Slots) -> Verdict:
    """The rule of the paper: verifies behind noise, and keeps what has half the probability.

    Args:
        logits: [R, W, V].
        state: of the call, its drafts `NoisyDrafts`.
        slots: what was fed.

    Source: arXiv 2510.08994, section 4.2.
    """
    noisy, window, rules = state.drafts, state.window, state.rules
    assert isinstance(noisy, NoisyDrafts)
    drafts = _nearest(noisy, window)
    window = window._replace(slots=torch.cat((window.slots[:, :1], drafts), dim=1))
    independent = replace(rules, coupling="independent")
    verdict = verify_window(logits, window, independent, **state.place)
    return retain(verdict, window, target_log_probs(logits, rules), noisy.steps == 0)


def _nearest(noisy: NoisyDrafts, window: Window) -> Tensor:
    """What noisy drafts stand for: the token whose embedding has the most similar direction."""
    mean, std = noisy.noise.mean, noisy.noise.std
    drafts, table = ((one.float() - mean) / std for one in (noisy.embeddings, noisy.table))
    nearest = (normalize(drafts, dim=-1) @ normalize(table, dim=-1).T).argmax(dim=-1)
    return torch.where(noisy.steps > 0, nearest, window.tokens)


def retain(verdict: Verdict, window: Window, log_p: Tensor, clean: Tensor) -> Verdict:
    """Put back the clean drafts that were not accepted, where their ratio is at least one half.

    Args:
        verdict: on the window.
        window: as it was fed.
        log_p: float [B, W, V], target log-probabilities.
        clean: bool [B, W], drafts that are tokens.
    """
    width = window.width
    log_ratio = log_p.gather(-1, window.tokens.unsqueeze(-1)).squeeze(-1) - draft_log_probs(
        window, log_p.shape[-1]
    )
    behind = torch.arange(width, device=log_p.device) >= verdict.accept_length[:, None]
    stays = behind & clean & (log_ratio >= _RETAINED)
    return with_tokens(verdict, torch.where(stays, window.tokens, verdict.tokens))


def with_tokens(verdict: Verdict, tokens: Tensor) -> Verdict:
    """The verdict with other tokens [B, W], and with those that are left in the next window."""
    width, entering = tokens.shape[1], verdict.window.width
    source = torch.arange(entering, device=tokens.device) + verdict.accept_length[:, None]
    moved = tokens.gather(1, source.clamp(max=width - 1))
    drafts = torch.where(source < width, moved, verdict.window.tokens)
    slots = torch.cat((verdict.window.slots[:, :1], drafts), dim=1)
    return verdict._replace(tokens=tokens, window=verdict.window._replace(slots=slots))
