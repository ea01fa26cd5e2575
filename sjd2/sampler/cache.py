"""A preallocated KV cache in which every row has a length of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache

from sjd2.kernels import kv_compact, kv_truncate
from sjd2.kernels._dispatch import implementation
from sjd2.protocol import Past


class WindowCache(Cache):
    """Keys and values of the prefix, with room for one window behind every row.

    A window is written at each row's own length and most of it is thrown away again; throwing away
    is a move of `lengths`, because the next window overwrites what no mask shows any more.

    Args:
        rows: rows of the batch, guidance rows included.
        capacity: entries that a row has room for, the longest window included.
        device: of `lengths`; keys and values live where the model writes them from.
    """

    READ_BY_ITERATIONS = ("lengths", "keys", "values", "_entries")

    def __init__(self, rows: int, capacity: int, device: torch.device) -> None:
        super().__init__(layers=[])
        self.capacity = capacity
        self.lengths = torch.zeros(rows, dtype=torch.int64, device=device)
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self._entries = torch.arange(capacity, device=device)
        # Host-side bounds on the longest row, without the window and with it.
        self._longest = 0
        self._reached = 0
        self.bucket = 1  # extents are multiples of this many entries
        self.extent = 0  # attention reads no further
        self.is_compiled = False  # whether forwards that write here are compiled
        # `kv_append`, its implementation chosen here: a compiled forward cannot ask which it is.
        self._append = implementation(device).kv_append

    def fill(self, past: Past) -> None:
        """Start with entries that others have computed, of the first rows."""
        rows = len(past.lengths)
        for stored, given in ((self.keys, past.keys), (self.values, past.values)):
            for states in given:
                room = _room(states, len(self.lengths), self.capacity)
                room[:rows, :, : past.width] = states
                stored.append(room)
        self.lengths[:rows] = past.lengths
        self._longest = past.width

    def open_window(self, width: int) -> tuple[Tensor, Tensor]:
        """Prepare to write `width` entries behind every row.

        Returns:
            Where they go, int64 [R, W], and the mask, bool [R, 1, W, S]: a slot sees its row's
            prefix, the slots before it and itself.
        """
        self.reach(width)
        positions = self.lengths[:, None] + self._entries[:width]
        return positions, (self._entries[: self.extent] <= positions[..., None]).unsqueeze(1)

    def reach(self, width: int) -> int:
        """The extent of a window of `width` entries, by what the host knows."""
        self._reached = min(self._longest + width, self.capacity)
        self.extent = -(-self._reached // self.bucket) * self.bucket
        return self.extent

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write a layer's window [R, H, W, D]; return all that attention may read, [R, H, S, D]."""
        if layer_idx == len(self.keys):
            # Zeros, not garbage: a masked NaN is still a NaN in the weighted sum.
            self.keys.append(_room(key_states, len(key_states), self.capacity))
            self.values.append(_room(value_states, len(value_states), self.capacity))
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        self._append(keys, values, key_states, value_states, self.lengths.to(keys.device))
        return keys[:, :, : self.extent], values[:, :, : self.extent]

    def truncate(self, accept_length: Tensor) -> None:
        """Keep the first entries of the window just written: int64 [R], or [B] for all copies."""
        kv_truncate(self.lengths, accept_length)
        self.count()

    def count(self) -> None:
        """Tell the host that a window was written, of which any part may have been kept."""
        self._longest = self._reached

    def step(self, extents: int, grain: int) -> None:
        """Let there be so many extents, all multiples of one, which is a multiple of `grain`."""
        self.bucket = -(-self.capacity // (extents * grain)) * grain
        self._grow(self.bucket * extents)

    def measure(self, longest: int) -> None:
        """Tell the host the length of the longest row, where it has been read anyway."""
        self._longest = longest

    def keep_rows(self, rows: Tensor) -> None:
        """Drop all other rows; `rows` is int64 [R'], ascending."""
        for stored in (self.keys, self.values):
            for layer, cache in enumerate(stored):
                kv_compact(cache, rows.to(cache.device), self.lengths.to(cache.device))
                stored[layer] = cache[: len(rows)]
        self.lengths = self.lengths[rows]

    def put_rows(self, rows: Tensor, other: WindowCache, behind: int) -> None:
        """Put the rows of another cache in the place of `rows`, int64 [R'].

        Args:
            rows: as many as the other cache has.
            other: of the same layers.
            behind: entries that are to have room behind those of the other cache; the capacity
                grows where it is too small.
        """
        held = other._longest
        self._grow(held + behind)
        for stored, given in ((self.keys, other.keys), (self.values, other.values)):
            for cache, states in zip(stored, given, strict=True):
                cache[rows.to(cache.device), :, :held] = states[:, :, :held]
        self.lengths[rows] = other.lengths
        self._longest = max(self._longest, held)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Upper bound on the tokens in the longest row; masks and positions come from us."""
        return self._longest

    def _grow(self, capacity: int) -> None:
        capacity = -(-capacity // self.bucket) * self.bucket
        missing = capacity - self.capacity
        if missing > 0:
            self.keys, self.values = (
                [F.pad(cache, (0, 0, 0, missing)) for cache in stored]
                for stored in (self.keys, self.values)
            )
            self._entries = torch.arange(capacity, device=self._entries.device)
            self.capacity = capacity


def _room(states: Tensor, rows: int, capacity: int) -> Tensor:
    _, heads, _, dimensions = states.shape
    return states.new_zeros(rows, heads, capacity, dimensions)
