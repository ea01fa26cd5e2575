"""Fine-tuning by transformers' Trainer, so accelerate's launcher, DDP and their like come with it.

What is watched is what it is for: beside the loss, every evaluation draws held-out captions and
reports the step compression.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, IterableDataset
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerState,
    TrainingArguments,
)

from sjd2.checkpoint import keyed_generator, save_state
from sjd2.companions import (
    Companions,
    fingerprint,
    make_adapter,
    make_corrector,
    save_adapter,
    save_corrector,
)
from sjd2.companions.adapter import Adapter
from sjd2.companions.corrector import Corrector
from sjd2.files import write_json
from sjd2.finetune.callbacks import GoOn, Tell, drawings_path
from sjd2.finetune.corrector import CorrectorSettings, MoveObjective, Moves
from sjd2.finetune.objective import NextCleanToken, WindowObjective, drawing_request
from sjd2.finetune.rollouts import Inputs, Rollouts
from sjd2.finetune.runs import Record, find_checkpoint, record_of, write_record
from sjd2.finetune.settings import FinetuneSettings, TrainingSettings
from sjd2.progress import Progress
from sjd2.protocol import ImageModel
from sjd2.sampler import Method, decode, resolve
from sjd2.sampler.schedule import noise_levels

_WEIGHTS = "model.safetensors"  # of a checkpoint


class Pictures(IterableDataset[dict[str, Any]]):
    """An endless stream of batches: captions and the tokens of their pictures, chosen by the seed.

    Args:
        inputs: keyword arguments of `generate` of every caption, batch first.
        tokens: int64 [N, length].
        batch: rows of one.
        seed: of the choice, and of the noise that goes with each.
        rank: of this process; each takes rows of its own.

    Attributes:
        start: batches to leave out, for a run that goes on.
    """

    def __init__(
        self, inputs: Inputs, tokens: Tensor, batch: int, seed: int, rank: int = 0
    ) -> None:
        self.inputs, self.tokens, self.batch = inputs, tokens, batch
        self.seed, self.rank, self.start = seed, rank, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Dicts of "inputs", "tokens" and "seed"."""
        for number in count(self.start):
            generator = keyed_generator(self.seed, "pictures", self.rank, number)
            rows = torch.randint(len(self.tokens), (self.batch,), generator=generator)
            yield {
                "inputs": {name: tensor[rows] for name, tensor in self.inputs.items()},
                "tokens": self.tokens[rows],
                "seed": torch.randint(2**62, (self.batch,), generator=generator),
            }


class DenoisingTrainer(Trainer):
    """A Trainer whose batches come ready-made, and whose evaluation draws.

    Args:
        compression: gives the step compression of held-out captions at present.
        **kwargs: of `Trainer`.
    """

    control: Any  # of callbacks; Trainer's own

    def __init__(self, compression: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.compression = compression

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches as the dataset makes them; every process has a dataset of its own."""
        # A generator of its own: to begin an epoch, it would take a number from the one that
        # dropout draws from, and a run that goes on begins one more.
        return DataLoader(self.train_dataset, batch_size=None, generator=torch.Generator())

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The objective computes it."""
        outputs = model(**inputs)
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        moved: dict[str, Any] = tree_map(lambda tensor: tensor.to(self.args.device), inputs)
        return moved

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Draws; no loss of held-out pictures says as much."""
        metrics = {"eval_step_compression": self.compression()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None
    ) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.accelerator.unwrap_model(self.model), str(folder / _WEIGHTS))

    def _save_rng_state(self, output_dir: str) -> None:
        # Every process comes by here, before the file that ends a checkpoint is written.
        super()._save_rng_state(output_dir)
        if isinstance(self.train_dataset, (Rollouts, Moves)):
            path = drawings_path(Path(output_dir), self.args.process_index)
            save_state(path, self.train_dataset.drawings.state())

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        load_model(model or self.model, str(Path(resume_from_checkpoint) / _WEIGHTS))


def finetune(
    model: nn.Module,
    family: ImageModel,
    inputs: Inputs,
    held_out: Inputs,
    tokens: Tensor | None,
    sampling: dict[str, Any],
    out: Path,
    settings: FinetuneSettings,
    resume: bool = False,
    *,
    show_progress: bool = False,
) -> tuple[Adapter, dict[str, Any]]:
    """Train an adapter, or with `settings.full` the model itself, in place.

    Args:
        model: the transformers model.
        family: the same, behind its protocol.
        inputs: keyword arguments of `generate` of every caption, batch first.
        held_out: of captions to evaluate on.
        tokens: int64 [N, length], the captions' pictures; the full training alone needs them.
        sampling: further keyword arguments of `generate`, such as the guidance scale.
        out: receives checkpoints, the adapter, and finetune.json with the history.
        settings: the recipe.
        resume: go on from the last whole checkpoint in `out`.
        show_progress: say on stderr how far it is, see `sjd2.progress`.

    Returns:
        The adapter (of rank 0 for a full training), and the history: settings, seconds, losses
        and step compressions by step.

    Raises:
        ValueError: `out` holds checkpoints and `resume` is false, or none of this training and it
            is true; the full training has no tokens.
    """
    record = record_of(
        family, settings, sampling, captions=inputs, evaluated_captions=held_out, pictures=tokens
    )
    last = find_checkpoint(out, record, resume)
    torch.manual_seed(settings.seed)
    adapter = make_adapter(family, 0 if settings.full else settings.rank)
    model.requires_grad_(settings.full)
    # Also joins the other processes, where a launcher has started several.
    arguments = _arguments(out, settings, family)
    rank = arguments.process_index
    objective: nn.Module
    data: Pictures | Rollouts
    if settings.full:
        if tokens is None:
            raise ValueError("tokens: training all parameters needs pictures, not captions alone")
        levels = noise_levels(settings.denoising_steps, settings.schedule)
        objective = NextCleanToken(family, adapter, model, levels, sampling)
        data = Pictures(inputs, tokens, settings.batch, settings.seed, rank)
    else:
        objective = WindowObjective(family, adapter, sampling)
        data = Rollouts(
            family,
            adapter,
            inputs,
            sampling,
            settings.decoding(),
            settings.batch,
            settings.windows,
            settings.reuse,
            settings.seed,
            rank,
        )
    method = resolve(settings.decoding(), Companions(adapter=adapter))
    evaluate = partial(_compression, family, held_out, sampling, method)
    trainer, history = _train(
        objective, data, evaluate, arguments, settings, last, record, show_progress
    )
    if settings.full:
        # The model it belongs to is the one that was just made.
        adapter.base = fingerprint(family.backbone)
    model.requires_grad_(False)
    # In every process, for the model may be spread over them.
    without = resolve(replace(settings.decoding(), method="sjd"))
    with Progress("measuring the adapter", is_shown=show_progress and rank == 0):
        adapter.measured = {
            "sjd2": evaluate(),
            "sjd": _compression(family, held_out, sampling, without),
        }
    history["step_compression"] = adapter.measured
    if trainer.is_world_process_zero():
        save_adapter(adapter, out)
        write_json(out / "finetune.json", history)
    return adapter, history


def finetune_corrector(
    model: nn.Module,
    family: ImageModel,
    inputs: Inputs,
    held_out: Inputs,
    sampling: dict[str, Any],
    out: Path,
    settings: CorrectorSettings,
    resume: bool = False,
    *,
    show_progress: bool = False,
) -> tuple[Corrector, dict[str, Any]]:
    """Train a corrector.

    Args:
        model: the transformers model; it stays as it is.
        family: the same, behind its protocol.
        inputs: keyword arguments of `generate` of every caption, batch first.
        held_out: of captions to evaluate on.
        sampling: further keyword arguments of `generate`, such as the guidance scale.
        out: receives checkpoints, the corrector, and finetune.json with the history.
        settings: the recipe.
        resume: go on from the last whole checkpoint in `out`.
        show_progress: say on stderr how far it is, see `sjd2.progress`.

    Returns:
        The corrector and the history: settings, seconds, losses and step compressions by step.

    Raises:
        ValueError: `out` holds checkpoints and `resume` is false, or none of this training and it
            is true.
    """
    record = record_of(family, settings, sampling, captions=inputs, evaluated_captions=held_out)
    last = find_checkpoint(out, record, resume)
    torch.manual_seed(settings.seed)
    # Of families that draw in several sizes, a call says which: neighbours depend on it.
    geometry = drawing_request(family, held_out, sampling).geometry
    corrector = make_corrector(family, settings.rank, geometry.row_width)
    model.requires_grad_(False)
    arguments = _arguments(out, settings, family)
    objective = MoveObjective(family, corrector, settings.dropout)
    data = Moves(family, corrector, inputs, sampling, settings, arguments.process_index)
    method = resolve(settings.decoding(), Companions(corrector=corrector))
    evaluate = partial(_compression, family, held_out, sampling, method)
    trainer, history = _train(
        objective, data, evaluate, arguments, settings, last, record, show_progress
    )
    if trainer.is_world_process_zero():
        save_corrector(corrector, out)
        write_json(out / "finetune.json", history)
    return corrector, history


def _compression(
    family: ImageModel, held_out: Inputs, sampling: dict[str, Any], method: Method
) -> float:
    """Of held-out captions, with an adapter or a corrector as it is at the moment."""
    request = drawing_request(family, held_out, sampling)
    _, stats = decode(family, request, method, range(request.images))
    return stats.step_compression


def _train(
    objective: nn.Module,
    data: Any,
    evaluate: Callable[[], float],
    arguments: TrainingArguments,
    settings: TrainingSettings,
    last: Path | None,
    record: Record,
    show_progress: bool,
) -> tuple[DenoisingTrainer, dict[str, Any]]:
    """Run a training to its end; the trainer and the history."""
    started = time.monotonic()
    if arguments.process_index == 0:
        # The processes have joined: all of them have looked for one.
        write_record(Path(arguments.output_dir).parent, record)
    trainer = DenoisingTrainer(
        evaluate,
        model=objective,
        args=arguments,
        train_dataset=data,
        eval_dataset=[],  # Trainer insists on one; evaluations draw instead
        callbacks=[GoOn(data, last), *([Tell()] if show_progress else [])],
    )
    trainer.remove_callback(PrinterCallback)  # it prints every measurement to stdout
    done = last and TrainerState.load_from_json(str(last / "trainer_state.json"))
    if done and done.global_step >= settings.steps:
        # Killed after its last step: Trainer would do one more before it looks at the number.
        trainer._load_from_checkpoint(str(last))
        trainer.state = done
    else:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    history = {
        "settings": asdict(settings),
        "seconds": round(time.monotonic() - started, 1),
        "trained_parameters": sum(p.numel() for p in objective.parameters() if p.requires_grad),
        "log": _log(trainer.state.log_history),
    }
    return trainer, history


def _log(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was measured; not the seconds of the last line, nor epochs, as a stream has none."""
    return [
        {name: value for name, value in line.items() if name != "epoch"}
        for line in lines
        if "train_runtime" not in line
    ]


def _arguments(out: Path, settings: TrainingSettings, family: ImageModel) -> TrainingArguments:
    device = family.embedding_table().device
    return TrainingArguments(
        output_dir=str(out / "checkpoints"),
        max_steps=settings.steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=settings.warm_up,
        weight_decay=0.0,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        # A loss is the mean since the last line; one that began before a checkpoint would be lost.
        logging_steps=math.gcd(50, settings.evaluate_every),
        eval_strategy="steps",
        eval_steps=settings.evaluate_every,
        save_steps=settings.evaluate_every,
        save_total_limit=2,
        seed=settings.seed,
        # A stream is not read again from its beginning: it starts where it should.
        ignore_data_skip=True,
        use_cpu=device.type == "cpu",
        report_to=[],
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )


def split(inputs: Inputs, held_out: int) -> tuple[Inputs, Inputs]:
    """All but the last rows, and the last: captions to learn from, captions to evaluate on."""
    total = len(next(iter(inputs.values())))
    return (
        {name: tensor[: total - held_out] for name, tensor in inputs.items()},
        {name: tensor[total - held_out :] for name, tensor in inputs.items()},
    )
