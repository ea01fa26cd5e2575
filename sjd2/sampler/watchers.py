"""Who looks on while pictures are drawn: an account, a count of tokens, `generate`'s own loop.

All of them, training and the page of `sjd2 app` included, see the same thing through the same two
calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sjd2.kernels import Verdict
from sjd2.kernels.target.eager import target_log_probs
from sjd2.kernels.verify_window.eager import grammar_at
from sjd2.progress import Progress
from sjd2.protocol import Request
from sjd2.sampler.drafts import Slots
from sjd2.sampler.state import DecodingState


class Iteration(NamedTuple):
    """One pass of the loop, before anything is committed."""

    state: DecodingState
    slots: Slots  # what was fed
    hidden: Tensor  # [R, W, D'], last hidden states
    raw: Tensor  # [R, W, V], the model's logits
    logits: Tensor  # [R, W, V], or [B, W, V] where processors have run
    verdict: Verdict


class Watcher(Protocol):
    """Sees every iteration, and is asked now and then whether to go on."""

    def iteration(self, now: Iteration) -> None:
        """Look at an iteration before it is committed; it must be left as it is."""

    def settled(self, state: DecodingState) -> bool:
        """Look at pictures whose positions the host has just read; whether to go on."""


class OnIteration:
    """A function that looks at every iteration, as a `Watcher`."""

    def __init__(self, look: Callable[[Iteration], None]) -> None:
        self.look = look

    def iteration(self, now: Iteration) -> None:
        """See `Watcher`."""
        self.look(now)

    def settled(self, state: DecodingState) -> bool:
        """See `Watcher`."""
        return True


class CommittedTokens:
    """Shows how many tokens are committed, with the tokens per forward.

    Args:
        tokens: of all pictures.
    """

    def __init__(self, tokens: int) -> None:
        self.progress = Progress("drawing", "tokens", tokens)

    def iteration(self, now: Iteration) -> None:
        """See `Watcher`."""

    def settled(self, state: DecodingState) -> bool:
        """See `Watcher`."""
        pace = state.committed / len(state.tokens) / (state.iteration - 1)
        self.progress.update(state.committed, f"{pace:.1f} tokens per forward")
        if not state.drawing:
            self.progress.close()
        return True


class Follower:
    """Tells `generate`'s own loop of the tokens that all pictures have, and of their scores.

    Args:
        request: what is followed: its `follow` is called, its `outputs` are kept.
        vocab_size: image tokens, V.
    """

    def __init__(self, request: Request, vocab_size: int) -> None:
        self.follow = request.follow
        shape = (request.images, request.geometry.length, vocab_size)
        device = request.prompt.embeddings.device
        self.kept: Mapping[str, Tensor] = {
            name: torch.zeros(shape, device=device) for name in request.outputs
        }

    def iteration(self, now: Iteration) -> None:
        """Keep what the tokens about to be committed were drawn from.

        Sync: asks which columns are committed.
        """
        if not self.kept:
            return
        state, width = now.state, now.logits.shape[1]
        columns = torch.arange(width, device=now.logits.device)
        row, column = (columns < now.verdict.accept_length[:, None]).nonzero(as_tuple=True)
        at = (state.rows[row], state.columns()[row, column])
        if "scores" in self.kept:
            grammar = state.geometry.grammar
            forced = None if grammar is None else grammar_at(grammar, state.position, width)
            log_p = target_log_probs(now.logits, state.rules, forced)
            self.kept["scores"][at] = log_p[row, column].float()
        if "logits" in self.kept:
            self.kept["logits"][at] = now.raw[row, column].float()

    def settled(self, state: DecodingState) -> bool:
        """See `Watcher`."""
        return self.follow is None or self.follow(state.tokens[:, : state.complete], self.kept)
