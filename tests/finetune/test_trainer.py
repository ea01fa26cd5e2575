"""Training: it learns, it stops at any time and ends the same, it says what it needs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import sjd2
from sjd2.finetune.runs import last_checkpoint
from sjd2.finetune.settings import FinetuneSettings
from sjd2.finetune.trainer import finetune
from sjd2.models import family_of
from tests.finetune.test_packing import INPUTS, SAMPLING
from tests.janus_model import LENGTH, VOCAB, tiny_janus

TINY = FinetuneSettings(
    rank=2,
    steps=4,
    batch=2,
    windows=2,
    reuse=2,
    window=12,
    denoising_steps=2,
    evaluate_every=2,
    evaluated=2,
    warm_up=1,
)
TOKENS = torch.randint(VOCAB, (3, LENGTH), generator=torch.Generator().manual_seed(0))


def run(out: Path, settings: FinetuneSettings = TINY, **options: Any) -> tuple[Any, Any, Any]:
    model = tiny_janus()
    held_out = {name: tensor[:2] for name, tensor in INPUTS.items()}
    adapter, history = finetune(
        model,
        family_of(model),
        INPUTS,
        held_out,
        TOKENS if settings.full else None,
        SAMPLING,
        out,
        settings,
        **options,
    )
    return model, adapter, history


@pytest.mark.parametrize("full", [False, True])
def test_a_run_that_goes_on_ends_the_same(tmp_path: Path, full: bool) -> None:
    """Kills: a stream that starts over, an optimiser that forgets, a checkpoint half written."""
    settings = replace(TINY, full=full)
    model, whole, history = run(tmp_path / "whole", settings)
    assert [e["step"] for e in history["log"] if "eval_step_compression" in e] == [2, 4]
    part = tmp_path / "part"
    shutil.copytree(tmp_path / "whole", part)
    # As a kill would leave it: the last checkpoint is not finished.
    (part / "checkpoints" / "checkpoint-4" / "trainer_state.json").write_text("{")
    assert last_checkpoint(part) == part / "checkpoints" / "checkpoint-2"
    with pytest.raises(ValueError, match="--resume goes on"):
        run(part, settings)
    same_model, resumed, again = run(part, settings, resume=True)
    assert again["log"] == history["log"]
    for one, other in ((whole, resumed), (model, same_model)):
        for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(ours, theirs)
    assert full or any(parameter.abs().sum() > 0 for parameter in resumed.up.values())


@pytest.mark.parametrize("full", [False, True])
def test_a_run_that_had_done_all_steps_does_none_when_it_goes_on(
    tmp_path: Path, full: bool
) -> None:
    """Kills: a step more than was asked for, after a kill in the last measurement."""
    settings = replace(TINY, full=full)
    _, whole, history = run(tmp_path, settings)
    _, resumed, again = run(tmp_path, settings, resume=True)
    assert again["log"] == history["log"]
    assert again["log"][-1]["step"] == TINY.steps
    assert again["step_compression"] == history["step_compression"]
    assert resumed.base == whole.base
    for ours, theirs in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_only_a_training_of_the_same_settings_goes_on(tmp_path: Path) -> None:
    """Kills: --resume that starts afresh without a word, and settings that are not looked at."""
    with pytest.raises(ValueError, match="holds no training to go on with"):
        run(tmp_path, resume=True)
    assert list(tmp_path.iterdir()) == []
    run(tmp_path)
    with pytest.raises(ValueError, match="has other steps, warm_up"):
        run(tmp_path, replace(TINY, steps=6, warm_up=2), resume=True)


def test_the_adapter_learns_and_the_model_stays(tmp_path: Path) -> None:
    """Kills: a frozen model that is trained; a loss that nothing can lower."""
    model, _, history = run(tmp_path, replace(TINY, steps=40, learning_rate=1e-2, evaluate_every=5))
    losses = [entry["loss"] for entry in history["log"] if "loss" in entry]
    assert losses[-1] < 0.9 * losses[0]
    before, after = tiny_janus().state_dict(), model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert sjd2.load_adapter(tmp_path).measured == history["step_compression"]
    last = [e["eval_step_compression"] for e in history["log"] if "eval_step_compression" in e][-1]
    held_out = {name: tensor[:2] for name, tensor in INPUTS.items()}
    with sjd2.accelerated(model, adapter=None, window=TINY.window):
        model.generate(**held_out, **SAMPLING, seed=[0, 1])
        without = sjd2.decoding_stats(model).step_compression
    assert history["step_compression"] == {"sjd2": last, "sjd": without}
    sjd2.accelerate(model, adapter=tmp_path)


def test_full_training_changes_the_model_and_its_adapter_belongs_to_it(tmp_path: Path) -> None:
    """Kills: an adapter that names the model before it was trained."""
    model, adapter, _ = run(tmp_path, replace(TINY, full=True, learning_rate=1e-3))
    assert adapter.rank == 0
    before, after = tiny_janus().state_dict(), model.state_dict()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert any("language_model" in name for name in changed)
    sjd2.accelerate(model, adapter=adapter, method="sjd2")
    with pytest.raises(ValueError, match="fingerprint"):
        sjd2.accelerate(tiny_janus(), adapter=tmp_path)


def test_full_training_needs_pictures(tmp_path: Path) -> None:
    """Kills: an error from deep inside."""
    model = tiny_janus()
    with pytest.raises(ValueError, match="needs pictures"):
        finetune(
            model,
            family_of(model),
            INPUTS,
            INPUTS,
            None,
            SAMPLING,
            tmp_path,
            replace(TINY, full=True),
        )
