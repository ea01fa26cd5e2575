"""Stage 1 of the recipe: the picture tokenizer, Janus' own VQ autoencoder.

Codes live on the unit sphere (Janus normalises them when it decodes), so the nearest code is the
one with the largest inner product, whatever the length of the encoder's output. The codebook is
not trained by gradient: it starts as k-means of the encoder's outputs, follows them as a moving
average, and a code that nobody uses restarts at a recent output.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers.models.janus.modeling_janus import JanusVQVAE

from sjd2.demo.checkpoint import keyed_generator, load_state, save_state
from sjd2.demo.scenes import Split, render, sample_scene
from sjd2.demo.shards import Shards


@dataclass(frozen=True)
class VQSettings:
    """How the tokenizer is trained; the defaults made the weights that ship with the package."""

    steps: int = 1300
    batch: int = 16
    learning_rate: float = 2e-3
    warm_up: int = 50
    falling: float = 0.4  # fraction of the steps over which the rate falls to zero, linearly
    unquantised: int = 200  # steps before the codebook exists, so that it starts from real outputs
    decay: float = 0.99  # of the codebook's moving averages, per step
    revive_every: int = 10
    revive_until: float = 0.8  # fraction of the steps: the last fifth settles
    edge_weight: float = 0.5
    colour_weight: float = 2.0
    commitment: float = 0.25
    usage_weight: float = 0.01
    usage_temperature: float = 0.07
    checkpoint_every: int = 100


def pictures(seeds: range, split: Split = "train") -> Tensor:
    """Rendered scenes as the model sees them: [len(seeds), 3, 64, 64] float32 in -1..1."""
    rendered = np.stack([render(sample_scene(seed, split)) for seed in seeds])
    # Contiguous: left as channels-last, every convolution is two to three times slower on a CPU.
    return torch.from_numpy(rendered).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def encode(vq: JanusVQVAE, x: Tensor, autocast: bool = True) -> Tensor:
    """Unit vectors before quantisation: [B, 8, h, w] float32 for pictures [B, 3, 4h, 4w]."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast, cache_enabled=False):
        latents = vq.quant_conv(vq.encoder(x))
    return F.normalize(latents.float(), dim=1)


def nearest_codes(vq: JanusVQVAE, latents: Tensor) -> Tensor:
    """Code numbers [B, h * w] of unit latents [B, 8, h, w]; the same rule as Janus' quantizer."""
    index: Tensor = (_rows(latents) @ vq.quantize.embedding.weight.T).argmax(-1)
    return index.view(len(latents), -1)


def reconstruction_loss(y: Tensor, x: Tensor, edge_weight: float, colour_weight: float) -> Tensor:
    """L1 + L2 on pixels, and L1 on what the eye notices first.

    That is the differences of neighbours, for crisp outlines, and colour without its brightness,
    which the grey texture of the ground would otherwise outweigh.
    """
    error = y - x
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    colour = (error - error.mean(dim=1, keepdim=True)).abs().mean()
    plain = error.abs().mean() + error.square().mean()
    return plain + edge_weight * edges + colour_weight * colour


class Codebook:
    """The codes with their moving averages.

    Args:
        embedding: the quantizer's table, [codes, 8]; written in place.
        decay: of the averages, per step.
    """

    def __init__(self, embedding: nn.Embedding, decay: float) -> None:
        self.embedding, self.decay = embedding, decay
        embedding.weight.requires_grad_(False)
        self.counts = torch.zeros(embedding.num_embeddings, device=embedding.weight.device)
        self.sums = torch.zeros_like(embedding.weight)

    def start(self, vectors: Tensor, generator: torch.Generator, rounds: int = 12) -> None:
        """Spherical k-means of `vectors` [N, 8], started at random ones of them."""
        size = self.embedding.num_embeddings
        chosen = torch.randperm(len(vectors), generator=generator)[:size].to(vectors.device)
        self._write(vectors[chosen])
        for _ in range(rounds):
            self.counts.zero_()
            self.sums.zero_()
            self.follow(vectors, decay=0.0)
            self.revive(vectors, generator)

    @torch.no_grad()
    def follow(self, vectors: Tensor, decay: float | None = None) -> None:
        """One step of the moving average: each of `vectors` [N, 8] pulls its nearest code."""
        decay = self.decay if decay is None else decay
        index = (vectors @ self.embedding.weight.T).argmax(-1)
        counts = torch.bincount(index, minlength=len(self.counts)).float()
        self.counts.lerp_(counts, 1 - decay)
        self.sums.lerp_(torch.zeros_like(self.sums).index_add_(0, index, vectors), 1 - decay)
        used = self.counts > 0
        self._write(torch.where(used[:, None], self.sums, self.embedding.weight))

    @torch.no_grad()
    def revive(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Restarts every code used less than 1/20 of its share at a random one of `vectors`."""
        share = self.counts.mean()
        dead = self.counts < 0.05 * share
        fresh = torch.randint(len(vectors), (len(dead),), generator=generator).to(vectors.device)
        # Half a share: a newcomer gets time to find users before it counts as dead again.
        self.counts = torch.where(dead, 0.5 * share, self.counts)
        self.sums = torch.where(dead[:, None], 0.5 * share * vectors[fresh], self.sums)
        self._write(torch.where(dead[:, None], vectors[fresh], self.embedding.weight))

    @torch.no_grad()
    def _write(self, codes: Tensor) -> None:
        self.embedding.weight.copy_(F.normalize(codes, dim=-1))


def _usage(flat: Tensor, codes: Tensor, temperature: float) -> Tensor:
    """Entropy in nats of how the codes would be used if each vector chose softly among them."""
    soft = torch.softmax(flat @ codes.T / temperature, dim=-1).mean(0)
    return -(soft * (soft + 1e-9).log()).sum()


def _learning_rate(step: int, settings: VQSettings) -> float:
    rising = (step + 1) / settings.warm_up
    falling = (settings.steps - step) / (settings.falling * settings.steps)
    return settings.learning_rate * min(1.0, rising, falling)


def train_vq(
    vq: JanusVQVAE,
    folder: Path,
    settings: VQSettings,
    seed: int,
    device: torch.device,
    shards: Shards,
    out_of_time: Callable[[], bool],
) -> bool:
    """Trains the tokenizer from its last checkpoint in `folder`, or from nothing.

    Args:
        vq: Janus' VQ model, on `device`; trained in place.
        folder: where `vq.pt` is kept.
        settings: the recipe.
        seed: of everything random.
        device: where to compute.
        shards: who computes the gradients.
        out_of_time: asked after every step; training stops with a checkpoint when it says so.
    Returns:
        bool: whether all steps are done.
    """
    book = Codebook(vq.quantize.embedding, settings.decay)
    trained = [p for p in vq.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=settings.learning_rate, betas=(0.9, 0.95))
    path, step, seconds = folder / "vq.pt", 0, 0.0
    if state := load_state(path):
        vq.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        book.counts, book.sums = state["counts"].to(device), state["sums"].to(device)
        step, seconds = state["step"], state["seconds"]
    started = time.monotonic() - seconds
    bar = tqdm(
        range(step, settings.steps), "tokenizer", settings.steps, initial=step, mininterval=2
    )
    for step in bar:
        for group in optimiser.param_groups:
            group["lr"] = _learning_rate(step, settings)
        loss = _train_step(vq, book, optimiser, shards, step, settings, seed, device)
        bar.set_postfix(loss=f"{loss:.4f}")
        done, stop = step + 1, out_of_time()
        if stop or done % settings.checkpoint_every == 0 or done == settings.steps:
            save_state(
                path,
                {
                    "model": vq.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "counts": book.counts,
                    "sums": book.sums,
                    "step": done,
                    "seconds": time.monotonic() - started,
                },
            )
        if stop:
            return bool(done == settings.steps)
    return True


def _train_step(
    vq: JanusVQVAE,
    book: Codebook,
    optimiser: torch.optim.Optimizer,
    shards: Shards,
    step: int,
    settings: VQSettings,
    seed: int,
    device: torch.device,
) -> float:
    """One step of the optimiser and of the codebook; returns the reconstruction loss."""
    x = pictures(range(step * settings.batch, (step + 1) * settings.batch)).to(device)
    # Captions play no part here, so mirrored pictures are as good as new ones.
    if step % 2:
        x = x.flip(-1)
    generator = keyed_generator(seed, "codebook", step)
    quantised = step >= settings.unquantised
    if step == settings.unquantised:
        with torch.no_grad():
            book.start(_rows(encode(vq, x)), generator)
    # A copy, because the codes move before the last use of these.
    codes = book.embedding.weight.clone() if quantised else None
    some = torch.rand(512, generator=generator).to(device)
    latents: dict[int, Tensor] = {}
    losses: dict[int, Tensor] = {}

    def loss_of(number: int, part: Sequence[Tensor]) -> Tensor:
        unit = encode(vq, part[0])
        latents[number] = _rows(unit.detach())
        extra = unit.new_zeros(())
        if codes is not None:
            unit, extra = _quantise(unit, codes, some, settings)
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            y = vq.decoder(vq.post_quant_conv(unit))
        rebuilt = reconstruction_loss(
            y.float(), part[0], settings.edge_weight, settings.colour_weight
        )
        losses[number] = rebuilt.detach()
        return rebuilt + extra

    trained = [p for group in optimiser.param_groups for p in group["params"]]
    shards.backward(loss_of, [x], trained)
    nn.utils.clip_grad_norm_(trained, 1.0)
    optimiser.step()
    if quantised:
        vectors = torch.cat([latents[number] for number in sorted(latents)])
        book.follow(vectors)
        if step < settings.revive_until * settings.steps and step % settings.revive_every == 0:
            book.revive(vectors, generator)
    return float(torch.stack([losses[number] for number in sorted(losses)]).mean())


def _rows(latents: Tensor) -> Tensor:
    """[B, 8, h, w] as vectors [B * h * w, 8]."""
    return latents.flatten(2).transpose(1, 2).flatten(0, 1)


def _quantise(
    latents: Tensor, codes: Tensor, some: Tensor, settings: VQSettings
) -> tuple[Tensor, Tensor]:
    """Latents replaced by codes, gradients passed straight through, and what else to minimise.

    That is the distance from the codes, less a bonus for using all codes alike, estimated on the
    latents at `some`, places from 0 to 1 in the part.
    """
    rows = _rows(latents)
    chosen = codes[(rows.detach() @ codes.T).argmax(-1)]
    quantised = chosen.view(len(latents), -1, codes.shape[1]).transpose(1, 2)
    quantised = quantised.reshape(latents.shape)
    extra = settings.commitment * (latents - quantised).square().sum(1).mean()
    sample = rows[(some * len(rows)).long()]
    extra = extra - settings.usage_weight * _usage(sample, codes, settings.usage_temperature)
    return latents + (quantised - latents).detach(), extra


@torch.no_grad()
def measure_vq(vq: JanusVQVAE, number: int, device: torch.device) -> dict[str, float]:
    """Reconstruction errors and code usage over `number` held-out scenes, by Janus' own functions.

    Returns:
        dict: "l1" (pixels in 0..1), "psnr" (dB), "perplexity" (of the codes' use, in codes).
    """
    x = pictures(range(number), "held_out").to(device)
    indices, rebuilt = [], []
    for batch in torch.split(x, 50):
        found = vq.encode(batch).image_tokens.view(len(batch), -1)
        indices.append(found)
        rebuilt.append(vq.decode(found).clamp(-1, 1))
    error = (torch.cat(rebuilt) - x) / 2
    shares = torch.bincount(torch.cat(indices).flatten(), minlength=1).double()
    shares = shares[shares > 0] / shares.sum()
    return {
        "l1": float(error.abs().mean()),
        "psnr": float(-10 * error.square().mean().log10()),
        "perplexity": float((-(shares * shares.log()).sum()).exp()),
    }
