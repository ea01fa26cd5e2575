"""Drawings that steps learn from: which there are at a batch, and with whose weights."""

from __future__ import annotations

import torch
from torch import nn

from sjd2.finetune.memory import Drawings


def test_every_drawing_is_made_once_when_its_first_batch_is_asked_for() -> None:
    """Kills: a drawing made twice, a batch late, or with weights of later; one kept too long."""
    companion = nn.Linear(1, 1, bias=False)
    made: list[int] = []

    def draw(number: int) -> tuple[int, float]:
        made.append(number)
        return number, float(companion.weight.detach())

    drawings = Drawings(companion, draw, reuse=3, remembered=2)
    seen = []
    for batch in range(8):
        with torch.no_grad():
            companion.weight.fill_(batch)
        seen.append([number for number, _ in drawings.of_batch(batch)])
    assert made == [0, 1, 2]
    assert seen == [[0]] * 3 + [[0, 1]] * 3 + [[1, 2]] * 2
    assert drawings.of_batch(7) == [(1, 3.0), (2, 6.0)]
    state = drawings.state()
    again = Drawings(companion, draw, reuse=3, remembered=2)
    again.load_state(state)
    assert again.of_batch(7) == [(1, 3.0), (2, 6.0)]
    assert float(companion.weight.detach()) == 7
