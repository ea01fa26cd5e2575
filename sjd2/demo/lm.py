"""Stage 3 of the recipe: the language model learns to continue captions with picture tokens.

Hidden matrices are trained by Muon, all else by AdamW; the learning rate warms up, stays, and falls
linearly to zero. The weights kept are an exponential moving average.

A token's surprise is that of its kind (the ground, or an object of some colour) plus that of the
code among the codes of its kind. Which grain of the ground comes next nobody can predict, and most
tokens show the ground: their second part counts little in the loss, or its noise would drown what
captions are about. Each part is a proper score of its own, so the distribution that is learned is
the same.

Few tokens are the first of an object, and only those tell the model that it took the wrong one of a
caption. So in training a second head, thrown away at the end, names the next object from every
token on (`coming_objects`).
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import JanusForConditionalGeneration

from sjd2.checkpoint import keyed_generator, load_state, save_state
from sjd2.demo.build import WIDTH
from sjd2.demo.codebook import SIZES, Codebook, kinds
from sjd2.demo.shards import Shards, half_precision
from sjd2.demo.tokens import COMING
from sjd2.progress import Progress


@dataclass(frozen=True)
class LMSettings:
    """How the language model is trained; the defaults made the weights in the package."""

    steps: int = 3600
    batch: int = 32
    muon_rate: float = 5e-3
    adamw_rate: float = 2e-3
    weight_decay: float = 0.02
    warm_up: int = 100
    falling: float = 0.6  # fraction of the steps over which the rates fall to zero, linearly
    grain_weight: float = 0.1  # in the loss, of the codes among those of the ground
    coming_weight: float = 0.2  # in the loss, of the name of the next object
    dropped: float = 0.1  # fraction of captions blanked, for guidance
    average: float = 0.998  # decay of the moving average of the weights, per step
    compiled: bool = True  # where there is a C++ compiler; it decides the rounding, too
    checkpoint_every: int = 100
    record_every: int = 50
    validate_every: int = 250

    def share_of_rates(self, step: int) -> float:
        """The fraction of the full learning rates to use at a step."""
        rising = (step + 1) / self.warm_up
        falling = (self.steps - step) / (self.falling * self.steps)
        return min(1.0, rising, falling)


def prepare(
    model: JanusForConditionalGeneration, book: Codebook, generator: torch.Generator
) -> None:
    """Initial values for this width: embeddings of about unit scale, like codes side by side."""
    inner = model.model
    with torch.no_grad():
        inner.language_model.embed_tokens.weight.mul_(25)  # from 0.02 to 0.5
        codes = inner.generation_embeddings.weight
        directions = book.directions(codes.shape[1])
        codes.copy_(directions * codes.shape[1] ** 0.5)
        # Like codes are predicted alike at first, too.
        head = inner.generation_head.vision_head.weight
        spread = torch.randn(codes.shape[1], head.shape[1], generator=generator)
        head.copy_(directions @ spread * head.std())
        for layer in (inner.generation_aligner.fc1, *inner.generation_aligner.hidden_layers):
            layer.weight.mul_(layer.in_features**-0.5 / layer.weight.std())


def unconditional(prompts: Tensor, pad: int, bos: int, boi: int) -> Tensor:
    """Prompts [B, P] without their words: all but <bos> and <begin_of_image> becomes <pad>.

    This is what Janus' generate feeds for guidance; the attention mask stays that of the words.
    """
    return torch.where((prompts == bos) | (prompts == boi), prompts, pad)


def picture_states(
    model: JanusForConditionalGeneration, prompts: Tensor, mask: Tensor, codes: Tensor
) -> Tensor:
    """Last hidden states [B, N, width], one for each picture token, given what comes before it.

    Args:
        model: Janus.
        prompts: [B, P] int64, padded on the left.
        mask: [B, P], 0 where padded.
        codes: [B, N] int64 picture tokens.
    """
    words = model.get_input_embeddings()(prompts)
    drawn = model.prepare_embeddings_for_image_generation(codes[:, :-1])
    seen = torch.cat([mask, mask.new_ones(drawn.shape[:2])], dim=1)
    hidden: Tensor = model.model.language_model(
        inputs_embeds=torch.cat([words, drawn], dim=1), attention_mask=seen, use_cache=False
    ).last_hidden_state
    return hidden[:, prompts.shape[1] - 1 :]


def surprises(logits: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """The surprise in nats of every picture token, in two parts.

    Args:
        logits: [B, N, codes].
        codes: [B, N] int64, the tokens.
    Returns:
        tuple: float32 [B, N] each: of the token's kind, and of the token given its kind.
    """
    logits = logits.float()
    of_kinds = torch.stack(
        [part.logsumexp(-1) for part in torch.split(logits, list(SIZES), dim=-1)], dim=-1
    )
    chosen = of_kinds.gather(-1, kinds(codes.device)[codes][..., None])
    kind = of_kinds.logsumexp(-1, keepdim=True) - chosen
    code = chosen - logits.gather(-1, codes[..., None])
    return kind[..., 0], code[..., 0]


class Optimiser:
    """Muon on the matrices inside the layers, AdamW on the rest that drawing uses.

    Args:
        model: Janus; what drawing does not use gets no gradient and stays as it is.
        coming: the head of `coming_objects`.
        settings: the recipe.
        shards: whose threads take a step; Muon's costs as much as a sixth of the gradients.
    """

    def __init__(
        self,
        model: JanusForConditionalGeneration,
        coming: nn.Module,
        settings: LMSettings,
        shards: Shards,
    ) -> None:
        self.settings, self.shards = settings, shards
        inner = model.model
        layers = [
            [p for p in layer.parameters() if p.ndim == 2] for layer in inner.language_model.layers
        ]
        drawing = (
            inner.language_model,
            inner.generation_embeddings,
            inner.generation_aligner,
            inner.generation_head,
            coming,
        )
        hidden = {id(p) for matrices in layers for p in matrices}
        self.trained = [p for module in drawing for p in module.parameters()]
        rest = [p for p in self.trained if id(p) not in hidden]
        self.parts: dict[str, torch.optim.Optimizer] = {
            f"layer {number}": torch.optim.Muon(
                matrices,
                lr=settings.muon_rate,
                weight_decay=settings.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
            for number, matrices in enumerate(layers)
        }
        self.parts["others"] = torch.optim.AdamW(
            rest, lr=settings.adamw_rate, betas=(0.9, 0.98), weight_decay=0.0
        )
        self.rates = {name: part.defaults["lr"] for name, part in self.parts.items()}

    def step(self, step: int) -> None:
        """Applies the gradients at the learning rates of this step, and clears them."""
        share = self.settings.share_of_rates(step)
        nn.utils.clip_grad_norm_(self.trained, 1.0)

        def apply(name: str) -> None:
            part = self.parts[name]
            for group in part.param_groups:
                group["lr"] = share * self.rates[name]
            part.step()
            part.zero_grad(set_to_none=True)

        list(self.shards.pool.map(apply, self.parts))

    def state_dict(self) -> dict[str, Any]:
        """The states of all parts by name."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


class _Run:
    """A training run between two steps: all that a checkpoint holds."""

    def __init__(
        self,
        model: JanusForConditionalGeneration,
        book: Codebook,
        settings: LMSettings,
        seed: int,
        shards: Shards,
        path: Path,
    ) -> None:
        self.shards = shards
        self.model, self.settings, self.seed, self.path = model, settings, seed, path
        self.step = 0
        self.history: dict[str, Any] = {"training": [], "validation": [], "seconds": 0.0}
        self.recent = 0.0  # sum of the losses since the last record
        # Fusing what lies between the matrix products saves a fifth of a step.
        compiles = settings.compiled and (model.device.type == "cuda" or shutil.which("g++"))
        self.states = torch.compile(picture_states, dynamic=False) if compiles else picture_states
        self.coming = nn.Linear(WIDTH, COMING, device=model.device)
        nn.init.zeros_(self.coming.weight)
        nn.init.zeros_(self.coming.bias)
        state = load_state(path)
        if state is None:
            prepare(model, book, keyed_generator(seed, "head"))
        else:
            model.load_state_dict(state["model"])
            self.coming.load_state_dict(state["coming"])
            self.step, self.history, self.recent = state["step"], state["history"], state["recent"]
        self.optimiser = Optimiser(model, self.coming, settings, shards)
        self.average = [p.detach().clone() for p in self.optimiser.trained]
        if state is not None:
            self.optimiser.load_state_dict(state["optimiser"])
            self.average = [tensor.to(model.device) for tensor in state["average"]]
        self.started = time.monotonic() - self.history["seconds"]

    def save(self) -> None:
        """Writes the checkpoint."""
        self.history["seconds"] = round(time.monotonic() - self.started, 1)
        save_state(
            self.path,
            {
                "model": self.model.state_dict(),
                "coming": self.coming.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "average": self.average,
                "step": self.step,
                "history": self.history,
                "recent": self.recent,
            },
        )

    def advance(self, data: dict[str, Tensor]) -> None:
        """One step of the optimiser and of the average."""
        model, settings, config = self.model, self.settings, self.model.generation_config
        boi = config.generation_kwargs["boi_token_id"]
        special = (config.pad_token_id, config.bos_token_id, boi)
        prompts, codes, coming = self._batch(data)
        draws = torch.rand(len(prompts), generator=keyed_generator(self.seed, "blank", self.step))
        mask = (prompts != config.pad_token_id).long()
        blank = draws < settings.dropped
        prompts = torch.where(blank[:, None], unconditional(prompts, *special), prompts)
        losses: dict[int, float] = {}

        def loss_of(number: int, part: Sequence[Tensor]) -> Tensor:
            prompts, mask, codes, coming = part
            with half_precision(codes.device):
                states = self.states(model, prompts, mask, codes)
                logits, named = model.model.generation_head(states), self.coming(states)
            kind, code = surprises(logits, codes)
            losses[number] = float((kind + code).detach().mean()) * len(codes)
            grain = kinds(codes.device)[codes] == 0
            told = kind + torch.where(grain, settings.grain_weight, 1.0) * code
            ahead = cross_entropy(named.float().flatten(0, 1), coming.flatten())
            return told.mean() + settings.coming_weight * ahead

        batch = [tensor.to(model.device) for tensor in (prompts, mask, codes, coming)]
        self.shards.backward(loss_of, batch, self.optimiser.trained)
        self.optimiser.step(self.step)
        # A short memory at first: the average must forget the untrained weights.
        keep = min(settings.average, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.optimiser.trained], 1 - keep)
        self.recent += sum(losses[number] for number in sorted(losses)) / len(prompts)
        self.step += 1

    def _batch(self, data: dict[str, Tensor]) -> list[Tensor]:
        """The rows of this step, of an endless sequence of shuffled epochs."""
        total, batch = len(data["codes"]), self.settings.batch
        start, end = self.step * batch, (self.step + 1) * batch
        rows: list[Tensor] = []
        for epoch in range(start // total, (end - 1) // total + 1):
            order = torch.randperm(total, generator=keyed_generator(self.seed, "order", epoch))
            rows.append(order[max(0, start - epoch * total) : end - epoch * total])
        chosen = torch.cat(rows)
        return [data[name][chosen].long() for name in ("prompts", "codes", "coming")]

    def record(self, validation: dict[str, Tensor]) -> None:
        """Adds to the history what this step is due."""
        settings = self.settings
        if self.step % settings.record_every == 0:
            mean = round(self.recent / settings.record_every, 4)
            self.history["training"].append([self.step, mean])
            self.recent = 0.0
        if self.step % settings.validate_every == 0 or self.step == settings.steps:
            self.exchange()
            kind, code = mean_surprises(self.model, validation)
            self.exchange()
            self.history["validation"].append([self.step, round(kind + code, 4), round(kind, 4)])

    def note(self) -> str:
        """What was measured last."""
        parts = []
        if self.history["training"]:
            parts.append(f"cross entropy {self.history['training'][-1][1]:.4f}")
        if self.history["validation"]:
            _, whole, kinds_alone = self.history["validation"][-1]
            parts.append(f"held out {whole:.4f}, of kinds {kinds_alone:.4f}")
        return ", ".join(parts)

    @torch.no_grad()
    def exchange(self) -> None:
        """Swaps the weights with their average."""
        for parameter, mean in zip(self.optimiser.trained, self.average, strict=True):
            kept = parameter.clone()
            parameter.copy_(mean)
            mean.copy_(kept)


def train_lm(
    model: JanusForConditionalGeneration,
    book: Codebook,
    data: dict[str, Tensor],
    validation: dict[str, Tensor],
    folder: Path,
    settings: LMSettings,
    seed: int,
    shards: Shards,
    out_of_time: Callable[[], bool],
) -> dict[str, Any] | None:
    """Trains the language model from its last checkpoint in `folder`, or from nothing.

    Args:
        model: Janus on its device, trained in place. At the end it holds the averaged weights.
        book: which code each patch of a picture has.
        data: the training scenes, from `tokens`.
        validation: the same of scenes never trained on.
        folder: where `lm.pt` is kept.
        settings: the recipe.
        seed: of the order of the scenes and the blanked captions.
        shards: who computes the gradients.
        out_of_time: asked after every step; training stops with a checkpoint when it says so.
    Returns:
        dict: "training" and "validation", lists that start with [step, cross entropy], the second
        with that of the kinds alone behind it, and "seconds"; None where time ran out first.
    """
    run = _Run(model, book, settings, seed, shards, folder / "lm.pt")
    what = "training the language model"
    with Progress(what, "steps", settings.steps, run.step) as progress:
        while run.step < settings.steps:
            run.advance(data)
            run.record(validation)
            progress.update(run.step, run.note())
            stop = out_of_time() and run.step < settings.steps
            if stop or run.step == settings.steps or run.step % settings.checkpoint_every == 0:
                run.save()
            if stop:
                return None
    run.exchange()
    return run.history


@torch.no_grad()
def mean_surprises(
    model: JanusForConditionalGeneration, data: dict[str, Tensor]
) -> tuple[float, float]:
    """Mean `surprises` in nats per picture token, captions given, over all of `data`."""
    sums = torch.zeros(2, dtype=torch.float64)
    pad = model.generation_config.pad_token_id
    for i in range(0, len(data["codes"]), 32):
        prompts = data["prompts"][i : i + 32].long().to(model.device)
        codes = data["codes"][i : i + 32].long().to(model.device)
        with half_precision(codes.device):
            states = picture_states(model, prompts, (prompts != pad).long(), codes)
            logits = model.model.generation_head(states)
        sums += torch.stack([part.double().sum() for part in surprises(logits, codes)]).cpu()
    kind, code = (sums / data["codes"].numel()).tolist()
    return kind, code
