"""What happens beside the steps of a training: its stream goes on, and somebody is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from sjd2.checkpoint import load_state
from sjd2.finetune.corrector import Moves
from sjd2.finetune.rollouts import Rollouts
from sjd2.progress import Progress


class GoOn(TrainerCallback):
    """A stream goes on where training does: at its step, with the drawings that it had."""

    def __init__(self, data: Any, last: Path | None) -> None:
        self.data, self.last = data, last

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the first step."""
        if self.last is None:
            return
        self.data.start = state.global_step
        if not isinstance(self.data, (Rollouts, Moves)):
            return
        # Missing if the kill came between two processes that write a checkpoint: drawn afresh.
        if kept := load_state(drawings_path(self.last, args.process_index)):
            self.data.drawings.load_state(kept)


class Tell(TrainerCallback):
    """Says how many steps are done, and what was measured last."""

    def __init__(self) -> None:
        self.progress: Progress | None = None
        self.note = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the first step."""
        if state.is_world_process_zero:
            self.progress = Progress("training", "steps", state.max_steps, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After a step."""
        if self.progress is not None:
            self.progress.update(state.global_step, self.note)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any
    ) -> None:
        """After a measurement."""
        if "eval_step_compression" in logs:
            self.note = f"{logs['eval_step_compression']:.2f}x fewer forwards"

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After the last step."""
        if self.progress is not None:
            self.progress.close()


def drawings_path(checkpoint: Path, rank: int) -> Path:
    """Where a process keeps what its drawings can be made of again."""
    return checkpoint / f"drawings-{rank}.pt"
