"""The corrector's training: what it learns from, that it learns, that it stops at any time."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import sjd2
from sjd2.companions import make_corrector
from sjd2.finetune.corrector import CorrectorSettings, MoveObjective, Moves, _Predicted
from sjd2.finetune.trainer import finetune_corrector
from sjd2.kernels import Rules, Window
from sjd2.kernels.correct_window.eager import activate_window, correct_window, neighbours
from sjd2.models import family_of
from tests.finetune.test_packing import INPUTS, SAMPLING
from tests.janus_model import VOCAB, tiny_janus

TINY = CorrectorSettings(
    rank=8,
    steps=4,
    batch=2,
    columns=64,
    reuse=2,
    remembered=2,
    window=12,
    evaluate_every=2,
    evaluated=2,
    warm_up=1,
    learning_rate=1e-2,
)


def run(out: Path, settings: CorrectorSettings = TINY, **options: Any) -> tuple[Any, Any, Any]:
    model = tiny_janus()
    held_out = {name: tensor[:2] for name, tensor in INPUTS.items()}
    corrector, history = finetune_corrector(
        model, family_of(model), INPUTS, held_out, SAMPLING, out, settings, **options
    )
    return model, corrector, history


def test_moves_are_of_columns_whose_neighbours_changed() -> None:
    """Kills: predictions of different columns paired, padding learned from, distributions
    unnormalised.
    """
    model = tiny_janus()
    family = family_of(model)
    moves = Moves(family, make_corrector(family, 8), INPUTS, SAMPLING, TINY)
    batch = next(iter(moves))
    assert {len(tensor) for tensor in batch.values()} == {TINY.columns}
    assert (batch["old"] != batch["new"]).any(dim=-1).all()
    for target in (batch["log_p"], batch["target"]):
        assert torch.allclose(target.float().exp().sum(-1), torch.ones(TINY.columns), atol=1e-2)
    # Every neighbour is a row of the features of its own offset.
    offset = torch.arange(batch["old"].shape[1]) * (VOCAB + 1)
    assert ((batch["old"] >= offset) & (batch["old"] <= offset + VOCAB)).all()


def test_both_predictions_of_a_move_are_of_one_picture_position() -> None:
    """Kills: a target of the column beside, columns that enter paired with none or the first."""

    def predicted(start: int, width: int, change: int) -> _Predicted:
        place = torch.arange(start, start + width).float()[:, None]
        return _Predicted(start, place.expand(-1, 3), 100 + place, place.long() * 10 + change)

    move = predicted(4, 5, 0).moved_to(predicted(6, 5, 1), 5)
    # Positions 6 to 8 were in the window before; 9 and 10 entered, and are drafted from its last.
    assert move["log_p"][:, 0].tolist() == [6, 7, 8, 8, 8]
    assert move["hidden"][:, 0].tolist() == [106, 107, 108, 108, 108]
    assert move["target"][:, 0].tolist() == [6, 7, 8, 9, 10]
    assert move["old"][:, 0].tolist() == [60, 70, 80, 80, 80]
    assert move["new"][:, 0].tolist() == [61, 71, 81, 91, 101]
    same = predicted(4, 5, 0).moved_to(predicted(6, 3, 0), 3)
    assert len(same["old"]) == 0


def test_an_untrained_corrector_predicts_what_the_forward_did() -> None:
    """Kills: a shift that is there before anything was learned."""
    model = tiny_janus()
    family = family_of(model)
    corrector = make_corrector(family, 8)
    batch = next(iter(Moves(family, corrector, INPUTS, SAMPLING, TINY)))
    losses = MoveObjective(family, corrector, 0.1)(**batch)
    assert float(losses["total_variation"]) == pytest.approx(float(losses["uncorrected"]), abs=1e-3)


@torch.no_grad()
def test_a_corrector_is_learned_as_it_is_applied() -> None:
    """What decoding makes of a distribution is what the loss compares with.

    Kills: a move learned backwards, neighbours that are read otherwise while drawing.
    """
    family = family_of(tiny_janus())
    corrector = make_corrector(family, 8)
    torch.nn.init.normal_(corrector.shift.weight)
    shifts = corrector.shifts(family.embedding_table())
    rows, width, position = 2, 4, torch.tensor([3, 9])
    log_p = torch.randn(rows, width, VOCAB).log_softmax(dim=-1)
    hidden = torch.randn(rows, width, corrector.state.in_features)
    state = corrector.state(hidden)
    before, after = torch.randint(VOCAB, (2, rows, 20))
    kinds = torch.zeros(rows, width, dtype=torch.uint8)
    slots = after.gather(1, position[:, None] - 1 + torch.arange(width + 1))
    window = Window(slots, kinds, log_p, torch.zeros(rows).long())
    corrected = correct_window(
        window,
        window,
        state,
        activate_window(state, before, shifts, position=position),
        after,
        shifts,
        Rules(),
        seed=position,
        position=position,
        iteration=1,
        correction=1,
    ).draft_logits
    old, new = (
        neighbours(tokens, shifts.offsets, len(shifts.features), position, width, None)
        for tokens in (before, after)
    )
    given = (one.flatten(0, 1) for one in (log_p, hidden, corrected, old, new))
    losses = MoveObjective(family, corrector, dropout=0.0)(*given)
    assert losses["total_variation"] < 1e-5
    assert losses["uncorrected"] > 0.05


def test_a_corrector_learns_and_the_model_stays(tmp_path: Path) -> None:
    """Kills: a frozen model that is trained; a loss that nothing can lower."""
    model, corrector, history = run(tmp_path, replace(TINY, steps=60, evaluate_every=10))
    losses = [entry["loss"] for entry in history["log"] if "loss" in entry]
    assert losses[-1] < 0.95 * losses[0]
    before, after = tiny_janus().state_dict(), model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    sjd2.accelerate(model, corrector=tmp_path)
    assert corrector.base == sjd2.load_corrector(tmp_path).base


def test_a_corrector_s_run_can_go_on(tmp_path: Path) -> None:
    """Kills: a checkpoint that is not read, a run that starts over unasked, drawings made with
    other weights than at first, and dropout from another place of its stream.
    """
    # Drawings begin in between the checkpoints, and older ones are learned from as well.
    settings = replace(TINY, steps=8, reuse=3)
    _, whole, before = run(tmp_path, settings)
    # As a kill would leave it: the last checkpoint is not finished.
    shutil.rmtree(tmp_path / "checkpoints" / "checkpoint-8")
    with pytest.raises(ValueError, match="--resume goes on"):
        run(tmp_path, settings)
    _, corrector, history = run(tmp_path, settings, resume=True)
    assert history["log"] == before["log"]
    steps = [entry["step"] for entry in history["log"] if "eval_step_compression" in entry]
    assert steps == [2, 4, 6, 8]
    assert corrector.shift.weight.abs().sum() > 0
    for ours, theirs in zip(whole.parameters(), corrector.parameters(), strict=True):
        assert torch.equal(ours, theirs)
