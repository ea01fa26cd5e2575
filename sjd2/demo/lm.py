"""Stage 3 of the recipe: the language model learns to continue captions with picture tokens.

Hidden matrices are trained by Muon, all else by AdamW; the learning rate warms up, stays, and falls
linearly to zero. Tokens beside an object count more than the others: most tokens show the ground,
whose texture nobody can predict, and would drown what a caption is about. The weights kept are an
exponential moving average.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import JanusForConditionalGeneration

from sjd2.demo.build import GRID
from sjd2.demo.checkpoint import keyed_generator, load_state, save_state
from sjd2.demo.shards import Shards

OBJECT_CHROMA = 0.2  # largest less smallest channel, in 0..1, of a code that shows an object


@dataclass(frozen=True)
class LMSettings:
    """How the language model is trained; the defaults made the weights in the package."""

    steps: int = 4000
    batch: int = 32
    muon_rate: float = 5e-3
    adamw_rate: float = 2e-3
    weight_decay: float = 0.02
    warm_up: int = 100
    falling: float = 0.55  # fraction of the steps over which the rates fall to zero, linearly
    object_weight: float = 4.0  # of the tokens beside an object in the loss; the others weigh 1
    dropped: float = 0.1  # fraction of captions blanked, for guidance
    average: float = 0.998  # decay of the moving average of the weights, per step
    checkpoint_every: int = 100
    record_every: int = 50
    validate_every: int = 250

    def share_of_rates(self, step: int) -> float:
        """The fraction of the full learning rates to use at a step."""
        rising = (step + 1) / self.warm_up
        falling = (self.steps - step) / (self.falling * self.steps)
        return min(1.0, rising, falling)


def prepare(model: JanusForConditionalGeneration) -> None:
    """Initial values for this width: embeddings of about unit scale, codes as the VQ has them."""
    inner = model.model
    with torch.no_grad():
        inner.language_model.embed_tokens.weight.mul_(25)  # from 0.02 to 0.5
        codes = inner.vqmodel.quantize.embedding.weight
        inner.generation_embeddings.weight.copy_(codes * codes.shape[1] ** 0.5)
        for layer in (inner.generation_aligner.fc1, *inner.generation_aligner.hidden_layers):
            layer.weight.mul_(layer.in_features**-0.5 / layer.weight.std())


def unconditional(prompts: Tensor, pad: int, bos: int, boi: int) -> Tensor:
    """Prompts [B, P] without their words: all but <bos> and <begin_of_image> becomes <pad>.

    This is what Janus' generate feeds for guidance; the attention mask stays that of the words.
    """
    return torch.where((prompts == bos) | (prompts == boi), prompts, pad)


def picture_logits(
    model: JanusForConditionalGeneration, prompts: Tensor, mask: Tensor, codes: Tensor
) -> Tensor:
    """Logits [B, N, codes] of all N picture tokens, each given the prompt and the tokens before it.

    Args:
        model: Janus.
        prompts: [B, P] int64, padded on the left.
        mask: [B, P], 0 where padded.
        codes: [B, N] int64 picture tokens.
    """
    words = model.get_input_embeddings()(prompts)
    drawn = model.prepare_embeddings_for_image_generation(codes[:, :-1])
    seen = torch.cat([mask, mask.new_ones(drawn.shape[:2])], dim=1)
    hidden = model.model.language_model(
        inputs_embeds=torch.cat([words, drawn], dim=1), attention_mask=seen, use_cache=False
    ).last_hidden_state
    logits: Tensor = model.model.generation_head(hidden[:, prompts.shape[1] - 1 :])
    return logits


def token_losses(
    model: JanusForConditionalGeneration, prompts: Tensor, mask: Tensor, codes: Tensor
) -> Tensor:
    """Cross entropy in nats of every picture token, [B, N] float32; arguments as before."""
    # The cache of casts is shared by all threads, and theirs are different graphs.
    with torch.autocast(codes.device.type, torch.bfloat16, cache_enabled=False):
        logits = picture_logits(model, prompts, mask, codes)
    losses = F.cross_entropy(logits.float().flatten(0, 1), codes.flatten(), reduction="none")
    return losses.view(codes.shape)


@torch.no_grad()
def coloured_codes(model: JanusForConditionalGeneration, codes: Tensor) -> Tensor:
    """Which codes show objects rather than ground: [codes] bool, by their chroma once decoded.

    Args:
        model: Janus with its picture tokenizer trained.
        codes: [B, N] int64 of some pictures, to see the codes among their neighbours.
    """
    pixels = model.decode_image_tokens(codes)
    chroma = (pixels.amax(-1) - pixels.amin(-1)) / 2
    chroma = F.avg_pool2d(chroma[:, None], pixels.shape[1] // GRID).flatten()
    total = chroma.new_zeros(model.config.vq_config.num_embeddings)
    uses = torch.bincount(codes.flatten(), minlength=len(total)).clamp(min=1)
    return total.index_add(0, codes.flatten(), chroma) / uses > OBJECT_CHROMA


def beside_objects(codes: Tensor, coloured: Tensor) -> Tensor:
    """Which tokens [B, N] follow an object: to their left or in the row above, one column around.

    Only tokens already drawn count. So a loss weighted by this teaches the same distribution as
    one that is not, and merely learns it better where it matters.
    """
    seen = F.pad(coloured[codes].view(len(codes), -1, GRID), (1, 1, 1, 0))
    left, above = seen[:, 1:, :-2], seen[:, :-1]
    return (left | above[..., :-2] | above[..., 1:-1] | above[..., 2:]).flatten(1)


class Optimiser:
    """Muon on the matrices inside the layers, AdamW on the rest that drawing uses.

    Args:
        model: Janus; what drawing does not use gets no gradient and stays as it is.
        settings: the recipe.
    """

    def __init__(self, model: JanusForConditionalGeneration, settings: LMSettings) -> None:
        self.settings = settings
        inner = model.model
        matrices = [p for p in inner.language_model.layers.parameters() if p.ndim == 2]
        drawing = (
            inner.language_model,
            inner.generation_embeddings,
            inner.generation_aligner,
            inner.generation_head,
        )
        hidden = {id(p) for p in matrices}
        self.trained = [p for module in drawing for p in module.parameters()]
        rest = [p for p in self.trained if id(p) not in hidden]
        self.parts: dict[str, torch.optim.Optimizer] = {
            "muon": torch.optim.Muon(
                matrices, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"
            ),
            "adamw": torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.0),
        }

    def step(self, step: int) -> None:
        """Applies the gradients at the learning rates of this step, and clears them."""
        settings = self.settings
        share = settings.share_of_rates(step)
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        rates = {"muon": settings.muon_rate, "adamw": settings.adamw_rate}
        for name, part in self.parts.items():
            for group in part.param_groups:
                group["lr"] = share * rates[name]
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Both optimisers' states by name."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


class _Run:
    """A training run between two steps: all that a checkpoint holds."""

    def __init__(
        self, model: JanusForConditionalGeneration, settings: LMSettings, seed: int, path: Path
    ) -> None:
        self.model, self.settings, self.seed, self.path = model, settings, seed, path
        self.step = 0
        self.history: dict[str, Any] = {"training": [], "validation": [], "seconds": 0.0}
        self.recent = 0.0  # sum of the losses since the last record
        self.coloured: Tensor | None = None
        state = load_state(path)
        if state is None:
            prepare(model)
        else:
            model.load_state_dict(state["model"])
            self.step, self.history, self.recent = state["step"], state["history"], state["recent"]
        self.optimiser = Optimiser(model, settings)
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
                "optimiser": self.optimiser.state_dict(),
                "average": self.average,
                "step": self.step,
                "history": self.history,
                "recent": self.recent,
            },
        )

    def advance(self, data: dict[str, Tensor], shards: Shards) -> None:
        """One step of the optimiser and of the average."""
        model, settings, config = self.model, self.settings, self.model.generation_config
        boi = config.generation_kwargs["boi_token_id"]
        special = (config.pad_token_id, config.bos_token_id, boi)
        prompts, codes = self._batch(data)
        draws = torch.rand(len(prompts), generator=keyed_generator(self.seed, "blank", self.step))
        mask = (prompts != config.pad_token_id).long()
        blank = draws < settings.dropped
        prompts = torch.where(blank[:, None], unconditional(prompts, *special), prompts)
        weights = self._weights(data, codes)
        losses: dict[int, float] = {}

        def loss_of(number: int, part: Sequence[Tensor]) -> Tensor:
            loss = token_losses(model, *part[:3])
            losses[number] = float(loss.detach().mean()) * len(part[0])
            return (loss * part[3]).mean()

        batch = [tensor.to(model.device) for tensor in (prompts, mask, codes, weights)]
        shards.backward(loss_of, batch, self.optimiser.trained)
        self.optimiser.step(self.step)
        # A short memory at first: the average must forget the untrained weights.
        keep = min(settings.average, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.optimiser.trained], 1 - keep)
        self.recent += sum(losses[number] for number in sorted(losses)) / len(prompts)
        self.step += 1

    def _batch(self, data: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The rows of this step, of an endless sequence of shuffled epochs."""
        total, batch = len(data["codes"]), self.settings.batch
        start, end = self.step * batch, (self.step + 1) * batch
        rows: list[Tensor] = []
        for epoch in range(start // total, (end - 1) // total + 1):
            order = torch.randperm(total, generator=keyed_generator(self.seed, "order", epoch))
            rows.append(order[max(0, start - epoch * total) : end - epoch * total])
        chosen = torch.cat(rows)
        return data["prompts"][chosen].long(), data["codes"][chosen].long()

    def _weights(self, data: dict[str, Tensor], codes: Tensor) -> Tensor:
        """What each token [B, N] counts in the loss of this step, 1 on average."""
        if self.coloured is None:
            some = data["codes"][:256].long().to(self.model.device)
            self.coloured = coloured_codes(self.model, some).cpu()
        beside = beside_objects(codes, self.coloured)
        weights = torch.where(beside, self.settings.object_weight, 1.0)
        return weights / weights.mean()

    def record(self, validation: dict[str, Tensor]) -> None:
        """Adds to the history what this step is due."""
        settings = self.settings
        if self.step % settings.record_every == 0:
            mean = round(self.recent / settings.record_every, 4)
            self.history["training"].append([self.step, mean])
            self.recent = 0.0
        if self.step % settings.validate_every == 0 or self.step == settings.steps:
            self.exchange()
            found = round(cross_entropy(self.model, validation), 4)
            self.exchange()
            self.history["validation"].append([self.step, found])
            tqdm.write(f"step {self.step}: validation cross entropy {found}")

    @torch.no_grad()
    def exchange(self) -> None:
        """Swaps the weights with their average."""
        for parameter, mean in zip(self.optimiser.trained, self.average, strict=True):
            kept = parameter.clone()
            parameter.copy_(mean)
            mean.copy_(kept)


def train_lm(
    model: JanusForConditionalGeneration,
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
        model: Janus with its picture tokenizer trained; on its device, trained in place. At the end
            it holds the averaged weights.
        data: "prompts" and "codes" of the training scenes.
        validation: the same of scenes never trained on.
        folder: where `lm.pt` is kept.
        settings: the recipe.
        seed: of the order of the scenes and the blanked captions.
        shards: who computes the gradients.
        out_of_time: asked after every step; training stops with a checkpoint when it says so.
    Returns:
        dict: "training" and "validation", lists of [step, cross entropy], and "seconds"; None where
        time ran out first.
    """
    inner = model.model.language_model
    if model.device.type == "cpu":
        # A fifth faster than the fused attention at this width, backward included.
        inner.set_attn_implementation("eager")
    run = _Run(model, settings, seed, folder / "lm.pt")
    bar = tqdm(None, "language model", settings.steps, initial=run.step, mininterval=5)
    with bar:
        while run.step < settings.steps:
            run.advance(data, shards)
            run.record(validation)
            bar.update()
            if run.history["training"]:
                bar.set_postfix(loss=run.history["training"][-1][1], refresh=False)
            stop = out_of_time() and run.step < settings.steps
            if stop or run.step == settings.steps or run.step % settings.checkpoint_every == 0:
                run.save()
            if stop:
                return None
    run.exchange()
    inner.set_attn_implementation("sdpa")
    return run.history


@torch.no_grad()
def cross_entropy(model: JanusForConditionalGeneration, data: dict[str, Tensor]) -> float:
    """Mean cross entropy in nats per picture token, captions given, over all of `data`."""
    total = 0.0
    pad = model.generation_config.pad_token_id
    for i in range(0, len(data["codes"]), 32):
        prompts = data["prompts"][i : i + 32].long().to(model.device)
        codes = data["codes"][i : i + 32].long().to(model.device)
        total += float(token_losses(model, prompts, (prompts != pad).long(), codes).sum())
    return total / data["codes"].numel()
