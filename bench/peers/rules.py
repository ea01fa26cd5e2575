"""The decision rules of published decoders, each a `Rule` of the sampler; eager operations only.

Written from the papers; where a paper leaves something open, the docstring says what is assumed.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sjd2.kernels import Coupling, DraftKind, Verdict, Window, verify_window
from sjd2.kernels.philox import Stream
from sjd2.kernels.target.eager import target_log_probs
from sjd2.kernels.verify_window.eager import PhiloxDraws, decide, grammar_at, stored_at
from sjd2.sampler.drafts import Slots
from sjd2.sampler.published import retain, with_tokens
from sjd2.sampler.state import DecodingState


def sjd(logits: Tensor, state: DecodingState, slots: Slots) -> Verdict:
    """SJD: all drafts that are not accepted are drawn again; random tokens enter as one-hot drafts.

    As in the release, a token x that enters has the draft distribution one-hot at x: it is
    accepted with p(x), and otherwise recovered from p without x. That is exact. The release cuts a
    batch to its slowest row, which is not exact and not done here.

    Source: Teng et al., arXiv 2410.01699.
    """
    return _verified(logits, state, _certain(state.window))


def gumbel_coupling(logits: Tensor, state: DecodingState, slots: Slots) -> Verdict:
    """Every draft of a position is drawn with the same Gumbel noise; the criterion is the ratio.

    Source: So et al., arXiv 2510.24211.
    """
    return _decided(_SharedNoise, logits, state, state.window)


def retention(logits: Tensor, state: DecodingState, slots: Slots) -> Verdict:
    """SJD++: behind the first rejection, drafts that pass the criterion themselves stay.

    The others are drawn from p instead of the residual, and all are labelled with p. So where a
    draft was likely, its token is too likely from the second rejection on. The confidence at
    which a draft stays is assumed to be the criterion itself.

    Source: Teng et al., arXiv 2512.07503.
    """
    window = _certain(state.window)
    verdict = _verified(logits, state, window)
    coupled = _verified(logits, state, window, "maximal")
    columns = torch.arange(window.width, device=logits.device)
    behind = columns >= verdict.accept_length[:, None]
    # A residual never gives the rejected token, so equality means that the draft was kept.
    stays = behind & (coupled.tokens == window.tokens)
    return with_tokens(verdict, torch.where(stays, window.tokens, verdict.tokens))


def half_retention(logits: Tensor, state: DecodingState, slots: Slots) -> Verdict:
    """SJD2's rule on drafts that are tokens: drafts with a ratio of at least one half stay.

    Without denoising, which needs a model trained for it (`accelerate(exact=False)` has both).

    Source: arXiv 2510.08994.
    """
    window = _certain(state.window)
    verdict = _verified(logits, state, window)
    log_p = target_log_probs(logits, state.rules)
    return retain(verdict, window, log_p, torch.ones_like(window.tokens, dtype=torch.bool))


def grouping(logits: Tensor, state: DecodingState, slots: Slots) -> Verdict:
    """GSD: the criterion compares a group of tokens of similar probability instead of the draft.

    A group is the draft and its neighbours when p is sorted, nine tokens in all (two where the
    vocabulary is too small for nine); the residual is that of single tokens.

    Source: So et al., arXiv 2508.07747.
    """
    window = _certain(state.window)
    ratio = _group_log_ratio(target_log_probs(logits, state.rules), window)

    class Grouped(PhiloxDraws):
        def accept(self, log_ratio: Tensor) -> Tensor:
            return super().accept(ratio)

    return _decided(Grouped, logits, state, window)


class _SharedNoise(PhiloxDraws):
    """Drafts of a position share their noise in all iterations; other draws do not."""

    def choose(self, weights: Tensor, rows: Tensor, columns: Tensor, stream: Stream) -> Tensor:
        if stream == Stream.DRAFT:
            return self.choose_again(weights.log(), rows, columns)
        return super().choose(weights, rows, columns, stream)


def _verified(
    logits: Tensor, state: DecodingState, window: Window, coupling: Coupling = "independent"
) -> Verdict:
    """`verify_window` for another window than the state's, or with another coupling."""
    return verify_window(logits, window, replace(state.rules, coupling=coupling), **state.place)


def _decided(
    draws: type[PhiloxDraws], logits: Tensor, state: DecodingState, window: Window
) -> Verdict:
    """`verify_window` with other draws."""
    at = dict(state.place)
    grammar, position = at["grammar"], at["position"]
    forced = None if grammar is None else grammar_at(grammar, position, logits.shape[1])
    rules = replace(state.rules, coupling="independent")
    log_p = target_log_probs(logits, rules, forced)
    made = draws(at.pop("seed"), position, at.pop("iteration"), at.pop("begun"))
    return decide(log_p, window, rules, made, **at)


def _certain(window: Window) -> Window:
    """The window with its random drafts labelled one-hot."""
    is_random = window.kinds == DraftKind.UNIFORM
    return window._replace(kinds=window.kinds.masked_fill(is_random, int(DraftKind.ONEHOT)))


def _group_log_ratio(log_p: Tensor, window: Window) -> Tensor:
    """log(p / q) of the groups around the drafts, [B, W]; no draft of the window is uniform."""
    vocabulary = log_p.shape[-1]
    size = min(9, max(2, vocabulary // 2))
    order = log_p.argsort(dim=-1)
    rank = order.argsort(dim=-1).gather(-1, window.tokens[..., None])
    first = (rank - size // 2).clamp(min=0, max=vocabulary - size)
    group = order.gather(-1, first + torch.arange(size, device=log_p.device))
    rows = torch.arange(len(log_p), device=log_p.device)[:, None, None]
    full = window.draft_logits[rows, stored_at(window)[..., None], group].logsumexp(dim=-1)
    certain = torch.zeros_like(full)
    log_q = torch.where(window.kinds == DraftKind.FULL, full, certain)
    return log_p.gather(-1, group).logsumexp(dim=-1) - log_q
