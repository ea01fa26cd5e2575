"""A queue of pictures over a fixed number of rows: one that is finished makes room for the next.

A picture that begins while others are drawn has its prompt cached and its first iteration done on
its own, in a state beside the batch's. Then its row is as any other in the middle of a picture, and
takes the place of the finished one. So nothing it is drawn from depends on who else is drawn, or
when: its prompt, its seed, its own count of iterations.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional as F

from sjd2.protocol import (
    ImageModel,
    LogitsProcessor,
    PlacedProcessor,
    Prompt,
    Request,
    Sampling,
    extended,
)
from sjd2.sampler.decode import draw, iterate, predict, prefill
from sjd2.sampler.graphs import Loop
from sjd2.sampler.logprobs import LogProbs, LogProbsChoice, checked_choice
from sjd2.sampler.method import Method, Redraft
from sjd2.sampler.state import DecodingState
from sjd2.sampler.watchers import Iteration, Watcher

# On a GPU a forward of one prompt takes as long as one of the batch: several begin together, as
# soon as this share of the rows waits for it.
_SHARE_ON_GPU = 0.25


@dataclass(frozen=True)
class Drawn:
    """A finished picture.

    Attributes:
        number: which one of those that were asked for, from 0.
        tokens: int64 [length].
        forward_passes: window forwards (NFE) until its last token was committed.
        logprobs, model_logprobs: float32 [length], as in `DecodingStats`, where asked for.
    """

    number: int
    tokens: Tensor
    forward_passes: int
    logprobs: Tensor | None = None
    model_logprobs: Tensor | None = None


@dataclass(frozen=True)
class QueueStats:
    """The account of a queue.

    Attributes:
        pictures: that were drawn.
        tokens: of all of them.
        forward_passes: of the batch.
        prefill_passes: forwards of prompts alone; those that begin a queue are the batch's first.
        seconds: wall clock, with whatever is done to finished pictures.
    """

    pictures: int
    tokens: int
    forward_passes: int
    prefill_passes: int
    seconds: float

    @property
    def tokens_per_forward(self) -> float:
        """Tokens that all rows together commit in one forward of any kind."""
        return self.tokens / max(1, self.forward_passes + self.prefill_passes)


@torch.no_grad()
def decode_queue(
    model: ImageModel,
    pictures: Iterable[tuple[Request, int]],
    method: Method,
    rows: int,
    finished: Callable[[Drawn], object],
    *,
    refill: bool = True,
    logprobs: LogProbsChoice = False,
) -> QueueStats:
    """Draw pictures by the batch, each beginning as soon as there is room.

    Args:
        model: the family behind its protocol.
        pictures: a request of one picture and its seed, each; taken one by one as rows get free, so
            there may be any number of them.
        method: how to decode; a window of "auto" is that of `rows` pictures throughout.
        rows: pictures drawn at a time, at least 1.
        finished: called with every picture as soon as the host knows that it is finished.
        refill: False lets a batch end before the next one begins; the pictures are the same.
        logprobs: as for `decode`.

    Returns:
        What it took.

    Raises:
        ValueError: `rows` below 1; a request of several pictures, with cached prompts, with a
            streamer, stopping criteria or scores; requests of different sizes or settings.

    RNG: counter-addressed by seed; no global generator is touched. A picture depends on its prompt,
        its seed and the settings alone: in float32 it is the same alone, in a batch and here, but
        for ties that the rounding of a matrix product decides.
    Sync: as `decode`, and reads every finished picture.
    """
    if rows < 1:
        raise ValueError(f"rows={rows}: must be at least 1")
    source = enumerate(pictures)
    total = QueueStats(0, 0, 0, 0, 0.0)
    started = time.perf_counter()
    while first := list(islice(source, rows)):
        queue = Queue(model, method, source if refill else iter(()), finished, logprobs)
        total = queue.run(first, rows, total)
    return replace(total, seconds=time.perf_counter() - started)


class Queue:
    """Watches a batch and refills it; see `decode_queue`."""

    def __init__(
        self,
        model: ImageModel,
        method: Method,
        source: Iterator[tuple[int, tuple[Request, int]]],
        finished: Callable[[Drawn], object],
        logprobs: LogProbsChoice,
    ) -> None:
        self.model, self.method, self.source, self.finished = model, method, source, finished
        self.logprobs, self.waiting = checked_choice(logprobs), True
        self.drawing: dict[int, int] = {}  # row of the tables -> number of its picture
        self.done = 0
        self.redraft: Redraft
        self.forwards: Tensor  # int64 [rows], of the picture that is there now

    def run(
        self, first: list[tuple[int, tuple[Request, int]]], rows: int, before: QueueStats
    ) -> QueueStats:
        """Draw until nothing waits; the account of it added to another."""
        requests = [request for _, (request, _) in first]
        self.settings = requests[0]
        self.processors = _EachItsOwn(requests)
        self.drawing = {row: number for row, (number, _) in enumerate(first)}
        request = self._joined(requests)
        self.forwards = torch.zeros(len(first), dtype=torch.int64, device=request.prompt.ids.device)
        self.likely = LogProbs(self.logprobs, len(first))
        self.watching: list[Watcher] = [self, self.likely] if self.logprobs else [self]
        seeds = [seed for _, (_, seed) in first]
        # Fewer pictures than rows: there is nobody to wait for.
        self.waiting = len(first) == rows
        with self.method.begun(self.model, request, seeds, rows) as state:
            state.queue = self
            self.redraft = self.method.redrafting(state)
            draw(self.model, state, self.method, self.redraft, self.watching)
        return QueueStats(
            before.pictures + self.done,
            before.tokens + self.done * state.length,
            before.forward_passes + state.iteration - 1,
            before.prefill_passes + state.prefill_passes,
            0.0,
        )

    def iteration(self, now: Iteration) -> None:
        """See `Watcher`."""
        goes_on = (now.verdict.accept_length > 0).to(self.forwards.dtype)
        self.forwards.index_add_(0, now.state.rows, goes_on)

    def settled(self, state: DecodingState) -> bool:
        """See `Watcher`."""
        return True

    def refill(self, state: DecodingState, finished: list[int]) -> None:
        """See `Refill`."""
        self._take_away(state, finished)
        share = 0.0 if state.rows.device.type == "cpu" else _SHARE_ON_GPU
        if not self.waiting or len(finished) < share * len(state.rows):
            return
        entering = list(islice(self.source, len(finished)))
        self.waiting = len(entering) == len(finished)
        if entering:
            self._begin(state, finished[: len(entering)], entering)

    def _take_away(self, state: DecodingState, finished: list[int]) -> None:
        tables = state.rows.tolist()
        for row in (tables[at] for at in finished):
            number = self.drawing.pop(row, None)
            if number is not None:
                self.done += 1
                # A copy: the row is about to be another picture's.
                tokens = state.tokens[row, : state.length].clone().cpu()
                sampled, own = self.likely.of(row, state.length)
                self.finished(Drawn(number, tokens, int(self.forwards[row]), sampled, own))

    def _begin(
        self,
        state: DecodingState,
        rows: list[int],
        entering: list[tuple[int, tuple[Request, int]]],
    ) -> None:
        # As long as pictures wait, no row has moved: those of the state are those of the tables.
        requests = [request for _, (request, _) in entering]
        self.processors.put(rows, requests)
        fresh = state.newcomers(self._joined(requests), [seed for _, (_, seed) in entering], rows)
        self.drawing |= {row: number for row, (number, _) in zip(rows, entering, strict=True)}
        self.forwards[rows] = 0
        hidden = prefill(self.model, fresh)
        fresh.prefill_passes += 1  # its first iteration is no forward of the batch
        first = partial(predict, self.model, fresh, self.method)
        iterate(Loop(first, fresh, self.redraft), self.watching, hidden)
        state.put(rows, fresh)

    def _joined(self, requests: Sequence[Request]) -> Request:
        """One request for the pictures of all."""
        for request in requests:
            _check(request, self.settings)
        sampling = self.settings.sampling
        if sampling.processors:
            sampling = replace(sampling, processors=(self.processors,))
        prompt = _join([request.prompt for request in requests])
        return Request(prompt, sampling, self.settings.geometry, lambda tokens: tokens)


def _check(request: Request, like: Request) -> None:
    if request.images != 1:
        raise ValueError(f"a queue takes requests of one picture each, not of {request.images}")
    if request.prompt.past is not None:
        raise ValueError("past_key_values cannot be honoured in a queue: prompts are cached there")
    if request.follow is not None:
        raise ValueError(
            "a streamer, stopping criteria and scores cannot be honoured in a queue: pictures "
            "there begin and end at different times"
        )
    if not _is_alike(request, like):
        raise ValueError("the pictures of a queue must have one size and one sampling")


def _is_alike(request: Request, like: Request) -> bool:
    ours, theirs = request.geometry, like.geometry
    if (ours.length, ours.row_width) != (theirs.length, theirs.row_width):
        return False
    if ours.grammar is None or theirs.grammar is None:
        if ours.grammar is not theirs.grammar:
            return False
    elif not ours.grammar.equal(theirs.grammar):
        return False
    return _comparable(request.sampling) == _comparable(like.sampling)


def _comparable(sampling: Sampling) -> tuple[Sampling, bool]:
    """Every picture has processors of its own, but all or none have some."""
    return replace(sampling, processors=()), bool(sampling.processors)


def _join(prompts: Sequence[Prompt]) -> Prompt:
    """The prompts of single pictures as those of a batch: conditional rows, then the others."""
    width = max(prompt.embeddings.shape[1] for prompt in prompts)
    longest = max(prompt.ids.shape[1] for prompt in prompts)
    copies = range(len(prompts[0].embeddings))
    known = [prompt.positions for prompt in prompts if prompt.positions is not None]
    entries = max((one.shape[2] for one in known), default=0)
    rows = [extended(one, entries)[:, copy] for copy in copies for one in known]
    return replace(
        prompts[0],
        positions=torch.stack(rows, dim=1) if rows else None,
        embeddings=torch.stack(
            [
                F.pad(prompt.embeddings[copy], (0, 0, 0, width - prompt.embeddings.shape[1]))
                for copy in copies
                for prompt in prompts
            ]
        ),
        lengths=torch.stack([prompt.lengths[copy] for copy in copies for prompt in prompts]),
        ids=torch.cat(
            [
                F.pad(prompt.ids, (longest - prompt.ids.shape[1], 0), value=prompt.pad_id)
                for prompt in prompts
            ]
        ),
    )


class _EachItsOwn:
    """Logits processors of pictures that know nothing of each other, as one for the batch.

    Each sees what it sees where its picture is drawn alone.

    Args:
        requests: one per row.
    """

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = list(requests)

    def put(self, rows: Sequence[int], requests: Sequence[Request]) -> None:
        """Other pictures are drawn in some rows from now on."""
        for row, request in zip(rows, requests, strict=True):
            self.requests[row] = request

    def placed(self, input_ids: Tensor, scores: Tensor, images: Tensor, drawn: Tensor) -> Tensor:
        """See `PlacedProcessor`."""
        processed = scores.clone()
        for row in sorted(set(images.tolist())):
            request = self.requests[row]
            at = (images == row).nonzero().squeeze(1)
            # Not padded for the prompts of others.
            width = request.prompt.ids.shape[1] + int(drawn[at].max())
            processed[at] = _processed(
                request.sampling.processors, input_ids[at, -width:], scores[at], drawn[at]
            )
        return processed


def _processed(
    processors: Sequence[LogitsProcessor | PlacedProcessor],
    input_ids: Tensor,
    scores: Tensor,
    drawn: Tensor,
) -> Tensor:
    for processor in processors:
        if isinstance(processor, PlacedProcessor):
            scores = processor.placed(input_ids, scores, torch.zeros_like(drawn), drawn)
        else:
            scores = processor(input_ids, scores)
    return scores
