"""What the losses are, by their definitions."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sjd2
from sjd2.finetune import objective
from sjd2.finetune.objective import NextCleanToken, WindowObjective
from sjd2.finetune.packing import Windows
from sjd2.models import family_of
from tests.finetune.test_packing import INPUTS, SAMPLING


def test_the_loss_of_windows_is_how_often_noisy_drafts_are_rejected(
    janus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: a distance that is none, windows behind the picture or clean slots learned from."""
    predicted, truth = torch.randn(2, 2, 1, 3, 5).log_softmax(-1)
    valid = torch.tensor([[[True, True, False]], [[True, True, False]]])
    level = torch.tensor([[[0.0, 0.5, 1.0]], [[0.5, 1.0, 1.0]]])
    monkeypatch.setattr(objective, "packed_log_probs", lambda *args: (predicted, truth))
    learner = WindowObjective(family_of(janus), sjd2.new_adapter(janus), SAMPLING)
    nothing = torch.zeros(2, 1)
    loss = learner(INPUTS, nothing, Windows(nothing, nothing, level, valid))
    accepted = torch.minimum(predicted, truth).exp().sum(-1)
    expected = [1 - accepted[0, 0, 1], 1 - accepted[1, 0, 0], 1 - accepted[1, 0, 1]]
    torch.testing.assert_close(loss["loss"], torch.stack(expected).mean())
    clean = learner(INPUTS, nothing, Windows(nothing, nothing, 0 * level, valid))
    assert clean["loss"] == 0


def test_one_caption_in_ten_is_left_out(janus: Any) -> None:
    """Kills: guidance that nothing was learned for, or captions that are never read."""
    family = family_of(janus)
    learner = NextCleanToken(family, sjd2.new_adapter(janus), None, torch.ones(2), SAMPLING)
    images = len(next(iter(INPUTS.values())))
    both = objective.drawing_request(family, INPUTS, SAMPLING).prompt.embeddings
    for seeds, bare in (([20, 1, 2], [0]), ([3, 9, 30], [2]), ([4, 5, 6], [])):
        found = learner._prompt(family, INPUTS, torch.tensor(seeds[:images])).embeddings
        for row in range(images):
            assert torch.equal(found[row], both[row + images * (row in bare)])
