"""Log-probabilities of committed tokens, collected while they are drawn: one number a token."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sjd2.kernels import token_log_probs
from sjd2.kernels.verify_window.eager import grammar_at
from sjd2.sampler.state import DecodingState
from sjd2.sampler.watchers import Iteration

# True: under the distribution that was sampled; "both": under the model's own, too.
LogProbsChoice = bool | Literal["both"]


class Collected(NamedTuple):
    """Log-probabilities of the tokens of some pictures, float32 [B, length]."""

    sampled: Tensor | None
    own: Tensor | None


def checked_choice(choice: object) -> LogProbsChoice:
    """The choice as it is.

    Raises:
        ValueError: it is none of False, True, "both".
    """
    if choice is False or choice is True or choice == "both":
        return choice
    raise ValueError(f"output_logprobs={choice!r}: must be False, True or 'both'")


class LogProbs:
    """A watcher that keeps how likely every committed token was.

    "Sampled" is the distribution that a token was drawn from: after guidance, processors,
    temperature, top-k and top-p. "Own" is the model's of the conditional prompt, at temperature 1,
    over the image tokens. A token that the grammar forces has 0 in both.

    Args:
        choice: True or "both".
        images: rows of the tables.

    Sync: none; what is left of a window is overwritten by the next.
    """

    def __init__(self, choice: LogProbsChoice, images: int) -> None:
        self.choice, self.images = choice, images
        self.tables: dict[str, Tensor] = {}

    def iteration(self, now: Iteration) -> None:
        """See `Watcher`."""
        state, verdict = now.state, now.verdict
        grammar = state.geometry.grammar
        self._put(
            "sampled",
            state,
            token_log_probs(verdict, state.rules, position=state.position, grammar=grammar),
        )
        if self.choice == "both":
            conditional = now.raw[: len(state.rows)].float()
            tokens = verdict.tokens.unsqueeze(-1)
            own = conditional.gather(-1, tokens).squeeze(-1) - conditional.logsumexp(dim=-1)
            if grammar is not None:
                is_forced = grammar_at(grammar, state.position, own.shape[1]) >= 0
                own = own.masked_fill(is_forced, 0.0)
            self._put("own", state, own)

    def settled(self, state: DecodingState) -> bool:
        """See `Watcher`."""
        return True

    def of(self, rows: int | slice, length: int) -> Collected:
        """Those of finished pictures, by their rows of the tables; a copy of them."""
        found = {name: table[rows, :length].clone() for name, table in self.tables.items()}
        return Collected(found.get("sampled"), found.get("own"))

    def _put(self, name: str, state: DecodingState, values: Tensor) -> None:
        if name not in self.tables:
            width = state.tokens.shape[1]
            self.tables[name] = torch.zeros(self.images, width, device=values.device)
        self.tables[name][state.rows[:, None], state.columns()] = values.float()
