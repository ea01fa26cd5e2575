"""What a call of `generate` took: forwards, accept lengths, seconds."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sjd2.sampler.logprobs import Collected
    from sjd2.sampler.method import Method
    from sjd2.sampler.state import DecodingState
    from sjd2.sampler.watchers import Iteration


@dataclass(frozen=True)
class DecodingStats:
    """The account of one call. `print(stats)` shows a small table.

    Attributes:
        method: "sjd2", "sjd" or "ar".
        backend: the implementation of the operations that ran.
        images: pictures drawn.
        tokens: image tokens committed, over all pictures.
        forward_passes: per image, the window forwards (NFE) until its last token was committed.
        total_forward_passes: forwards of the batch.
        prefill_passes: forwards that only cached the prompts; not counted as `forward_passes`. 0
            where the forward of the prompts is the first, as in stock `generate`.
        accepted: drafts kept, over all pictures.
        recovered: tokens drawn after the last kept draft, over all pictures.
        accept_lengths: per image, the tokens committed by each of its forwards.
        seconds: wall clock of the sampler, prefill included, pixels excluded.
        committed_at: per image and token, the forward (from 1) that committed it; with
            `trace=True` only.
        is_corrected: whether a corrector re-drafted the windows between forwards.
        logprobs: float32 [images, length], log-probabilities of the tokens under the distribution
            that they were drawn from; with `output_logprobs` only.
        model_logprobs: the same under the model's own: temperature 1, no guidance, no filter, over
            the image tokens; with `output_logprobs="both"` only.
    """

    method: str
    backend: str
    images: int
    tokens: int
    forward_passes: tuple[int, ...]
    total_forward_passes: int
    prefill_passes: int
    accepted: int
    recovered: int
    accept_lengths: tuple[tuple[int, ...], ...]
    seconds: float
    committed_at: tuple[tuple[int, ...], ...] | None = None
    is_corrected: bool = False
    logprobs: Tensor | None = field(default=None, compare=False, repr=False)
    model_logprobs: Tensor | None = field(default=None, compare=False, repr=False)

    @property
    def tokens_per_forward(self) -> float:
        """Committed tokens / NFE, of the average picture."""
        return self.tokens / sum(self.forward_passes)

    @property
    def step_compression(self) -> float:
        """NFE of token-by-token decoding / NFE of this decoding, for the same tokens."""
        # Token by token, a picture takes as many forwards as it has tokens.
        return self.tokens_per_forward

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON-ready values."""
        likely = {"logprobs": self.logprobs, "model_logprobs": self.model_logprobs}
        return {
            **asdict(replace(self, logprobs=None, model_logprobs=None)),
            **{name: one.tolist() for name, one in likely.items() if one is not None},
            "tokens_per_forward": self.tokens_per_forward,
            "step_compression": self.step_compression,
        }

    def __str__(self) -> str:
        mean_forwards = sum(self.forward_passes) / self.images
        rows = {
            "method": self.method + (", with a corrector" if self.is_corrected else ""),
            "images": f"{self.images} ({self.tokens} tokens)",
            "forwards per image": f"{mean_forwards:.1f}",
            "forwards of the batch": f"{self.total_forward_passes} + {self.prefill_passes} prefill",
            "step compression": f"{self.step_compression:.2f}x",
            "accepted / recovered": f"{self.accepted} / {self.recovered}",
            "seconds": f"{self.seconds:.2f}",
            "kernels": self.backend,
        }
        width = max(map(len, rows))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


class Account:
    """Watches a call: collects verdicts on the device and reads them once, at the end.

    Seconds count from its making.

    Args:
        images: pictures of the call.
        trace: also keep the iteration at which every token was committed.
    """

    def __init__(self, images: int, *, trace: bool) -> None:
        self.images, self.trace = images, trace
        self.iterations, self.started = 0, time.perf_counter()
        self._rows: list[Tensor] = []
        self._accept_lengths: list[Tensor] = []
        self._accepted: list[Tensor] = []

    def iteration(self, now: Iteration) -> None:
        """See `Watcher`."""
        self.iterations += 1
        self._rows.append(now.state.rows)
        self._accept_lengths.append(now.verdict.accept_length)
        self._accepted.append(now.verdict.accepted)

    def settled(self, state: DecodingState) -> bool:
        """See `Watcher`."""
        return True

    def stats(
        self, method: Method, state: DecodingState, collected: Collected | None = None
    ) -> DecodingStats:
        """What the call took.

        Sync: reads everything recorded.
        """
        seconds = time.perf_counter() - self.started
        lengths: list[list[int]] = [[] for _ in range(self.images)]
        for rows, accept_length in zip(self._rows, self._accept_lengths, strict=True):
            for row, tokens in zip(rows.tolist(), accept_length.tolist(), strict=True):
                if tokens:
                    lengths[row].append(tokens)
        # One slot verifies nothing: its draft may coincide with the draw, but saves no forward.
        accepted = 0 if method.name == "ar" else int(torch.cat(self._accepted).sum())
        tokens = sum(map(sum, lengths))
        return DecodingStats(
            method=method.name,
            backend=state.backend,
            images=self.images,
            tokens=tokens,
            forward_passes=tuple(map(len, lengths)),
            total_forward_passes=self.iterations,
            prefill_passes=state.prefill_passes,
            accepted=accepted,
            recovered=tokens - accepted,
            accept_lengths=tuple(map(tuple, lengths)),
            seconds=seconds,
            committed_at=tuple(map(_committed_at, lengths)) if self.trace else None,
            is_corrected=method.is_corrected,
            logprobs=collected and collected.sampled,
            model_logprobs=collected and collected.own,
        )


def _committed_at(accept_lengths: list[int]) -> tuple[int, ...]:
    """The forward that committed each token, from the tokens that each forward committed."""
    forwards = enumerate(accept_lengths, start=1)
    return tuple(forward for forward, tokens in forwards for _ in range(tokens))
