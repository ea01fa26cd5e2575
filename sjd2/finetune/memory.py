"""The drawings that a training learns from, and how a run that goes on gets them back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from torch import Tensor, nn

Drawing = TypeVar("Drawing")


class _Kept(NamedTuple, Generic[Drawing]):
    number: int
    weights: dict[str, Tensor]  # that it was drawn with
    drawing: Drawing


class Drawings(Generic[Drawing]):
    """The last drawings, each made with what the companion had learned by then.

    A checkpoint keeps the companion's weights of every drawing instead of the drawings, which are
    hundreds of times as large; they are drawn again where a run goes on.

    Args:
        companion: learns; draws with its weights at the time.
        draw: makes the drawing of a number.
        reuse: batches between two drawings.
        remembered: how many are kept.
    """

    def __init__(
        self,
        companion: nn.Module,
        draw: Callable[[int], Drawing],
        reuse: int,
        remembered: int = 1,
    ) -> None:
        self.companion, self.draw, self.reuse = companion, draw, reuse
        self._kept: deque[_Kept[Drawing]] = deque(maxlen=remembered)

    def of_batch(self, number: int) -> list[Drawing]:
        """What a batch is made of, the oldest first; batches must be asked for in order."""
        round_, again = divmod(number, self.reuse)
        if not self._kept or again == 0:
            self._add(round_)
        return [kept.drawing for kept in self._kept]

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {"drawings": [(kept.number, kept.weights) for kept in self._kept]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Draw again what there was at a checkpoint; the companion stays as it is."""
        present = self._weights()
        self._kept.clear()
        for number, weights in state["drawings"]:
            self.companion.load_state_dict(weights)
            self._add(number)
        self.companion.load_state_dict(present)

    def _add(self, number: int) -> None:
        self._kept.append(_Kept(number, self._weights(), self.draw(number)))

    def _weights(self) -> dict[str, Tensor]:
        state = self.companion.state_dict()
        return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
