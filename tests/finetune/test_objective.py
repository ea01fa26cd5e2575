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


def test_the_loss_of_windows_is_the_divergence_from_the_truth(
    janus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: a divergence the wrong way round, and windows behind the picture learned from."""
    predicted, truth = torch.randn(2, 2, 1, 3, 5).log_softmax(-1)
    valid = torch.tensor([[[True, True, False]], [[True, False, False]]])
    monkeypatch.setattr(objective, "packed_log_probs", lambda *args: (predicted, truth))
    learner = WindowObjective(family_of(janus), sjd2.new_adapter(janus), SAMPLING)
    nothing = torch.zeros(2, 1)
    loss = learner(INPUTS, nothing, Windows(nothing, nothing, nothing, valid))
    apart = torch.nn.functional.kl_div(predicted, truth, reduction="none", log_target=True)
    torch.testing.assert_close(loss["loss"], apart.sum(-1)[valid].mean())
    variation = (predicted.exp() - truth.exp()).abs().sum(-1) / 2
    torch.testing.assert_close(loss["total_variation"], variation[valid].mean())


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
