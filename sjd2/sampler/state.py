"""Where every picture of a batch stands: committed tokens, window, cache, seed."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from sjd2.kernels import Rules, Verdict, Window, commit_window, first_window
from sjd2.protocol import ImageModel, Prompt, Request, extended
from sjd2.sampler.cache import WindowCache
from sjd2.sampler.drafts import Drafts, Slots, TokenDrafts

# Below this share of unfinished rows, copying them together is cheaper than carrying the others.
_WORTH_KEEPING = 0.75
# On a GPU the host asks this seldom whether rows are finished, so as not to wait for the device.
_SETTLE_EVERY = 4


class Refill(Protocol):
    """Takes finished pictures away, and puts others in their rows."""

    @property
    def waiting(self) -> bool:
        """Whether pictures wait for a row: as long as they do, rows stay where they are."""

    def refill(self, state: DecodingState, finished: list[int]) -> None:
        """Look at all finished rows, met before or not, and `put` pictures in their place."""


class DecodingState:
    """The pictures being drawn. Tensors hold a row per *unfinished* picture, but for the tables.

    Tables have a row per picture of the call: `tokens` and `ids`. `rows` says which of them is
    whose.

    Args:
        model: gives the embedding table.
        request: gives prompts and the geometry of the pictures.
        seeds: one per picture.
        rules: of the verification.
        width: slots of a window.
        first: slots of the first one.
        backend: that the operations run on, by name.

    Attributes:
        iteration: number of the next one, from 1.
        clock: the number that operations know it by; the same, unless the state is fixed.
        is_fixed: whether its tensors keep their shapes, for a recorded iteration; see `fix`.
        drafts: what the slots are fed; tokens, unless a method sets another source.
        complete: tokens that every picture has, as far as the host knows.
        committed: tokens of all pictures, as far as the host knows.
        prefill_passes: forwards that only cached the prompts.
        queue: has pictures for the rows that finish, or None.
    """

    # With `sjd2/sampler/graphs.py`: nothing else decides what an iteration does.
    READ_BY_ITERATIONS = (
        *("rows", "seed", "position", "begun", "tokens", "last_entry", "positions"),
        *("window", "cache", "drafts", "table", "geometry"),
        *("rules", "copies", "next_width"),
    )

    def __init__(
        self,
        model: ImageModel,
        request: Request,
        seeds: list[int],
        rules: Rules,
        width: int,
        first: int,
        backend: str = "eager",
    ) -> None:
        prompt, geometry = request.prompt, request.geometry
        device, images = prompt.embeddings.device, len(seeds)
        self.model, self.sampling = model, request.sampling
        self.prompt, self.geometry, self.rules = prompt, geometry, rules
        self.positions = prompt.positions
        self.ids, self.full_width, self.first_width = prompt.ids, width, first
        self.length, self.table = geometry.length, model.embedding_table()
        self.backend = backend
        self.settle_every = 1 if device.type == "cpu" else _SETTLE_EVERY
        self.rows = torch.arange(images, device=device)
        self.seed = torch.tensor(seeds, dtype=torch.int64, device=device)
        self.position = torch.zeros_like(self.rows)
        # What the clock showed before a row's first iteration; None: all began at once.
        self.begun: Tensor | None = None
        self.next_width = width
        self.window: Window = first_window(
            self.seed, first, model.vocab_size, grammar=geometry.grammar
        )
        # A window may overrun the picture, so there is room for one behind it.
        self.tokens = torch.zeros(images, self.length + width, dtype=torch.int64, device=device)
        self.copies = prompt.embeddings.shape[0] // images
        room = prompt.embeddings.shape[1] + self.length + width
        cached = prompt.past.width if prompt.past else 0
        self.cache = WindowCache(self.copies * images, room + cached, device)
        if prompt.past:
            self.cache.fill(prompt.past)
        # The last entry that a token is drawn from.
        self.last_entry = self.cache.lengths + prompt.lengths + self.length - 2
        self.iteration = self.clock = 1
        self.is_fixed, self.prefill_passes = False, 0
        self.complete = self.committed = 0
        self.drafts: Drafts = TokenDrafts()
        self.queue: Refill | None = None

    @property
    def width(self) -> int:
        """Slots of the window."""
        return self.window.width

    @property
    def drawing(self) -> bool:
        """Whether any picture is unfinished, as far as the host knows."""
        return self.rows.numel() > 0

    @property
    def is_due(self) -> bool:
        """Whether it is time for the host to read positions."""
        return (self.iteration - 1) % self.settle_every == 0

    @property
    def place(self) -> dict[str, Any]:
        """The window's place in the picture, as keyword arguments of the operations."""
        return {
            "seed": self.seed,
            "position": self.position,
            **self.when,
            "length": self.length,
            "grammar": self.geometry.grammar,
            "next_width": self.next_width,
        }

    @property
    def when(self) -> dict[str, Any]:
        """The iteration as the operations are told of it, as keyword arguments."""
        return {"iteration": self.clock, "begun": self.begun}

    def columns(self) -> Tensor:
        """Picture positions of the columns, int64 [B, W]."""
        return self.position[:, None] + torch.arange(self.width, device=self.position.device)

    def standing(self) -> Tensor:
        """What stands at every picture position, drafts included, int64 [B, length + room]."""
        return self.tokens[self.rows].scatter(1, self.columns(), self.window.tokens)

    def feed(self) -> Slots:
        """What the slots of the window are fed; the first one begins with the prompts' ends."""
        slots = self.drafts.feed(self)
        if self.iteration > 1:
            return slots
        rows = torch.arange(len(self.prompt.lengths), device=self.seed.device)
        ends = self.prompt.embeddings[rows, self.prompt.lengths - 1].unsqueeze(1)
        return slots._replace(embeddings=torch.cat((ends, slots.embeddings[:, 1:]), dim=1))

    def commit(self, verdict: Verdict) -> None:
        """Commit every row's own accept length; nothing is read back to the host.

        The window is still the one that was fed, until it is made to `slide`.
        """
        commit_window(verdict, self.rows, self.tokens, self.position)
        self.cache.truncate(verdict.accept_length)

    def slide(self, verdict: Verdict) -> None:
        """Go on with the next window of what was committed."""
        self.window = verdict.window
        self.drafts.advance(self, verdict)
        self.iteration += 1
        if self.begun is not None and self.is_fixed:
            self.begun -= 1  # the clock stands still: time passes by moving the beginning back
        else:
            self.clock += 1

    def fix(self, extents: int = 4, grain: int = 64) -> None:
        """From now on no number that an iteration depends on is the host's, and no shape changes.

        Rows that are finished stay, and commit nothing; the window runs over the picture's end.
        The exception is how far attention reads.

        Args:
            extents: how many lengths of the cache it may read, the capacity being the last.
            grain: entries of which they are multiples; so prompts of about the same length have the
                same extents.
        """
        begun = torch.zeros_like(self.rows) if self.begun is None else self.begun
        self.begun, self.clock = begun - self.clock, 0
        self.cache.step(extents, grain)
        self.is_fixed = True

    def count(self) -> None:
        """Tell the host of an iteration that ran without it."""
        self.iteration += 1
        self.cache.count()

    def settle(self) -> None:
        """Read the positions: let finished rows leave and cut the window to what remains.

        Where pictures wait in a queue, they take the place of finished ones instead.

        Sync: reads two small tensors from the device.
        """
        gone = len(self.tokens) - len(self.rows)
        positions: list[int] = self.position.tolist()
        self.complete = min([self.length, *positions])
        if self.queue is not None:
            finished = [row for row, at in enumerate(positions) if at >= self.length]
            if finished:
                self.queue.refill(self, finished)
            if self.queue.waiting:
                self.cache.measure(int(self.cache.lengths.max()))
                return
            positions = self.position.tolist()
        unfinished = [row for row, at in enumerate(positions) if at < self.length]
        self.committed = gone * self.length + sum(positions)
        if self.is_fixed and unfinished:
            self.cache.measure(int(self.cache.lengths.max()))
            return
        if len(unfinished) <= _WORTH_KEEPING * len(positions):
            self._keep_rows(torch.tensor(unfinished, dtype=torch.int64, device=self.rows.device))
        if unfinished:
            remaining = self.length - min(positions)
            self.next_width = min(self.next_width, remaining)
            self.window = self.window.narrow(self.next_width)
            self.drafts.narrow(self.next_width)
            self.cache.measure(int(self.cache.lengths.max()))

    def newcomers(self, request: Request, seeds: list[int], rows: list[int]) -> DecodingState:
        """A state for pictures that begin in finished rows of this one.

        It shares the tables: what it commits stands in the rows that are to be its own. After its
        first iteration it is `put` there.

        Args:
            request: as many pictures as rows; geometry and sampling are those of this state.
            seeds: one per picture.
            rows: where they go.
        """
        fresh = DecodingState(
            self.model,
            request,
            seeds,
            self.rules,
            self.full_width,
            self.first_width,
            self.backend,
        )
        where = self.rows[torch.tensor(rows, device=self.rows.device)]
        self.ids = _with_rows(self.ids, where, request.prompt)
        fresh.rows, fresh.tokens, fresh.ids = where, self.tokens, self.ids
        # Nothing but the first window is written before the rows move.
        room = request.prompt.embeddings.shape[1] + self.first_width
        fresh.cache = WindowCache(len(fresh.cache.lengths), room, self.rows.device)
        fresh.drafts = self.drafts.begin(fresh)
        return fresh

    def put(self, rows: list[int], fresh: DecodingState) -> None:
        """Let newcomers go on in the given rows, in step with the others."""
        at = torch.tensor(rows, device=self.rows.device)
        everyone = len(self.rows)
        begun = torch.zeros_like(self.rows) if self.begun is None else self.begun
        self.begun = begun.index_fill(0, at, self.clock - fresh.clock)
        self.seed = self.seed.index_copy(0, at, fresh.seed)
        self.position = self.position.index_copy(0, at, fresh.position)
        self.window = self.window.put_rows(at, fresh.window)
        self.drafts.put_rows(at, fresh.drafts)
        cached = torch.cat([at + everyone * copy for copy in range(self.copies)])
        self.cache.put_rows(cached, fresh.cache, self.length + self.full_width)
        self.last_entry = self.last_entry.index_copy(0, cached, fresh.last_entry)
        if self.positions is not None and fresh.positions is not None:
            longest = max(self.positions.shape[2], fresh.positions.shape[2])
            ours, theirs = (extended(one, longest) for one in (self.positions, fresh.positions))
            self.positions = ours.index_copy(1, cached, theirs)
        self.prefill_passes += fresh.prefill_passes

    def _keep_rows(self, rows: Tensor) -> None:
        everyone = len(self.rows)
        self.rows, self.seed = self.rows[rows], self.seed[rows]
        self.position = self.position[rows]
        self.begun = None if self.begun is None else self.begun[rows]
        self.window = self.window.keep_rows(rows)
        self.drafts.keep_rows(rows)
        copies = torch.cat([rows + everyone * copy for copy in range(self.copies)])
        self.cache.keep_rows(copies)
        self.last_entry = self.last_entry[copies]
        if self.positions is not None:
            self.positions = self.positions[:, copies]


def _with_rows(ids: Tensor, rows: Tensor, prompt: Prompt) -> Tensor:
    """The ids of prompts [B, L], padded on the left, with some rows replaced by a prompt's."""
    width = max(ids.shape[1], prompt.ids.shape[1])
    ids, new = (
        F.pad(one, (width - one.shape[1], 0), value=prompt.pad_id) for one in (ids, prompt.ids)
    )
    return ids.index_copy(0, rows, new)
