"""The rows of a language model's head that belong to image tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ImageHead:
    """Logits of the tokens that a picture is made of, and of no others.

    Only their rows of the head are computed, where its rows can be taken apart: not if it is
    quantised or adapted, or offloaded.

    Args:
        head: the model's, from hidden states to its whole vocabulary.
        ids: int64 [V], the tokens of pictures, those of the grammar at the end.
        codes: how many of them can be drawn.
    """

    def __init__(self, head: Any, ids: Tensor, codes: int) -> None:
        self.head, self.ids, self.codes = head, ids, codes
        self._rows: tuple[Tensor, Tensor | None] | None = None

    def gather(self) -> None:
        """Copy the rows, once for all forwards of a call."""
        if self._is_plain:
            self._rows = self._gathered()

    def __call__(self, hidden: Tensor) -> Tensor:
        """Of hidden states [R, W, D']: [R, W, V]. Tokens of the grammar have the lowest logit."""
        if not self._is_plain:
            logits: Tensor = self.head(hidden).to(hidden.device)[..., self.ids]
        else:
            # While the head is being trained, a copy of its rows would be of yesterday's.
            rows = None if torch.is_grad_enabled() else self._rows
            logits = F.linear(hidden, *(rows or self._gathered()))
        # Not minus infinity: guidance subtracts one half of the batch from the other.
        logits[..., self.codes :] = torch.finfo(logits.dtype).min
        return logits

    @property
    def _is_plain(self) -> bool:
        head = self.head
        if type(head) is not nn.Linear or type(head.weight.data) is not Tensor:
            # Rows of a tensor subclass, such as torchao's, cannot always be picked out.
            return False
        is_hooked = head._forward_hooks or head._forward_pre_hooks or hasattr(head, "_hf_hook")
        return not is_hooked and head.weight.device.type != "meta"

    def _gathered(self) -> tuple[Tensor, Tensor | None]:
        """Weight [V, D'] and bias [V]."""
        bias = self.head.bias
        return self.head.weight[self.ids], None if bias is None else bias[self.ids]
