"""Where every picture of a batch stands: committed tokens, window, cache, seed."""

from __future__ import annotations

import torch
from torch import Tensor

from sjd2.kernels import Verdict, Window, commit_window, first_window, noisy_embed
from sjd2.models.base import ImageModel, Prompt
from sjd2.sampler.cache import WindowCache
from sjd2.sampler.noise import Noise, Trajectory

# Below this share of unfinished rows, copying them together is cheaper than carrying the others.
_WORTH_KEEPING = 0.75


class DecodingState:
    """The pictures being drawn. Tensors hold a row per *unfinished* picture, but for `tokens`.

    Args:
        model: gives vocabulary, picture length and grammar.
        prompt: gives rows and the room that the prefix needs.
        seeds: one per picture.
        table: [V, D], input embeddings of the image tokens.
        width: slots of a window.
        first: slots of the first one.
        trajectory: how drafts get from noise to tokens; None where they are tokens all along.
    """

    def __init__(
        self,
        model: ImageModel,
        prompt: Prompt,
        seeds: list[int],
        table: Tensor,
        width: int,
        first: int,
        trajectory: Trajectory | None = None,
    ) -> None:
        device, images = prompt.embeddings.device, len(seeds)
        self.length, self.table = model.length, table
        self.rows = torch.arange(images, device=device)
        self.seed = torch.tensor(seeds, dtype=torch.int64, device=device)
        self.position = torch.zeros_like(self.rows)
        self.next_width = width
        self.window: Window = first_window(
            self.seed, first, model.vocab_size, grammar=model.grammar
        )
        # A window may overrun the picture, so there is room for one behind it.
        self.tokens = torch.zeros(images, model.length + width, dtype=torch.int64, device=device)
        self.copies = prompt.embeddings.shape[0] // images
        room = prompt.embeddings.shape[1] + model.length + width
        cached = prompt.past.width if prompt.past else 0
        self.cache = WindowCache(self.copies * images, room + cached, device)
        if prompt.past:
            self.cache.fill(prompt.past)
        self.iteration = 1
        self.complete = 0  # tokens that every picture has, as far as the host has been told
        self.noise: Noise | None = None
        if trajectory is not None:
            self.noise = Noise(trajectory, table, self.window, self.seed, model.grammar)

    @property
    def width(self) -> int:
        """Slots of the window."""
        return self.window.width

    @property
    def drawing(self) -> bool:
        """Whether any picture is unfinished, as far as the host has been told."""
        return self.rows.numel() > 0

    def columns(self) -> Tensor:
        """Picture positions of the columns, int64 [B, W]."""
        return self.position[:, None] + torch.arange(self.width, device=self.position.device)

    def standing(self) -> Tensor:
        """What stands at every picture position, drafts included, int64 [B, length + room]."""
        return self.tokens[self.rows].scatter(1, self.columns(), self.window.tokens)

    def inputs(self) -> tuple[Tensor, Tensor | None]:
        """What the slots are fed, [R, W, D], and which are noisy, bool [B, W] or None for none."""
        if self.noise is not None:
            return self.noise.feed(self.window, self.copies)
        return noisy_embed(self.window.fed, self.table, copies=self.copies), None

    def commit(self, verdict: Verdict) -> None:
        """Commit every row's own accept length; nothing is read back to the host."""
        commit_window(verdict, self.rows, self.tokens, self.position, self.cache.lengths)
        self.window = verdict.window
        self.cache.close_window()
        if self.noise is not None:
            self.noise.advance(verdict, self.seed, self.position)
        self.iteration += 1

    def settle(self) -> int:
        """Read the positions: let finished rows leave and cut the window to what remains.

        Returns:
            Tokens committed so far, over all pictures.

        Sync: reads two small tensors from the device.
        """
        gone = len(self.tokens) - len(self.rows)
        positions: list[int] = self.position.tolist()
        self.complete = min([self.length, *positions])
        unfinished = [row for row, at in enumerate(positions) if at < self.length]
        if len(unfinished) <= _WORTH_KEEPING * len(positions):
            self._keep_rows(torch.tensor(unfinished, dtype=torch.int64, device=self.rows.device))
        if unfinished:
            remaining = self.length - min(positions)
            self.next_width = min(self.next_width, remaining)
            self.window = self.window.narrow(self.next_width)
            if self.noise is not None:
                self.noise.narrow(self.next_width)
            self.cache.measure(int(self.cache.lengths.max()))
        return gone * self.length + sum(positions)

    def _keep_rows(self, rows: Tensor) -> None:
        everyone = len(self.rows)
        self.rows, self.seed = self.rows[rows], self.seed[rows]
        self.position = self.position[rows]
        self.window = self.window.keep_rows(rows)
        if self.noise is not None:
            self.noise.keep_rows(rows)
        self.cache.keep_rows(torch.cat([rows + everyone * copy for copy in range(self.copies)]))
