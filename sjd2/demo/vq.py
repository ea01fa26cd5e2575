"""Stage 1 of the recipe: the picture tokenizer, Janus' own VQ autoencoder.

Which code a patch has is settled before (`codebook`). Here the encoder learns to tell it and the
decoder to paint it, together with the vectors of the codes, which both of them use. The vectors
stay on the unit sphere, as Janus normalises them when it decodes; so the nearest code is the one
with the largest inner product, whatever the length of the encoder's output.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.janus.modeling_janus import JanusVQVAE

from sjd2.checkpoint import load_state, save_state
from sjd2.demo.codebook import Codebook, pictures
from sjd2.demo.shards import Shards, half_precision
from sjd2.progress import Progress


@dataclass(frozen=True)
class VQSettings:
    """How the tokenizer is trained; the defaults made the weights that ship with the package."""

    scenes: int = 4096  # whose patches the codebook is made of
    steps: int = 800
    batch: int = 16
    learning_rate: float = 2e-3
    warm_up: int = 50
    falling: float = 0.5  # fraction of the steps over which the rate falls to zero, linearly
    edge_weight: float = 0.5
    colour_weight: float = 2.0
    code_weight: float = 0.05  # of the encoder's cross entropy beside the reconstruction
    checkpoint_every: int = 100


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


def _learning_rate(step: int, settings: VQSettings) -> float:
    rising = (step + 1) / settings.warm_up
    falling = (settings.steps - step) / (settings.falling * settings.steps)
    return settings.learning_rate * min(1.0, rising, falling)


def train_vq(
    vq: JanusVQVAE,
    book: Codebook,
    folder: Path,
    settings: VQSettings,
    device: torch.device,
    shards: Shards,
    out_of_time: Callable[[], bool],
) -> bool:
    """Trains the tokenizer from its last checkpoint in `folder`, or from nothing.

    Args:
        vq: Janus' VQ model, on `device`; trained in place.
        book: which code each patch has.
        folder: where `vq.pt` is kept.
        settings: the recipe.
        device: where to compute.
        shards: who computes the gradients.
        out_of_time: asked after every step; training stops with a checkpoint when it says so.
    Returns:
        bool: whether all steps are done.
    """
    vectors = vq.quantize.embedding.weight
    optimiser = torch.optim.AdamW(
        vq.parameters(), settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
    )
    path, first, seconds = folder / "vq.pt", 0, 0.0
    if state := load_state(path):
        vq.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first, seconds = state["step"], state["seconds"]
    else:
        with torch.no_grad():
            vectors.copy_(book.directions(vectors.shape[1]))
    started = time.monotonic() - seconds
    with Progress("training the tokenizer", "steps", settings.steps, first) as progress:
        for step in range(first, settings.steps):
            for group in optimiser.param_groups:
                group["lr"] = _learning_rate(step, settings)
            loss = _train_step(vq, book, optimiser, shards, step, settings, device)
            done = step + 1
            progress.update(done, f"loss {loss:.4f}")
            stop = out_of_time()
            if stop or done % settings.checkpoint_every == 0 or done == settings.steps:
                save_state(
                    path,
                    {
                        "model": vq.state_dict(),
                        "optimiser": optimiser.state_dict(),
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
    device: torch.device,
) -> float:
    """One step of the optimiser; returns the reconstruction loss."""
    x = pictures(range(step * settings.batch, (step + 1) * settings.batch)).to(device)
    # Captions play no part here, so mirrored pictures are as good as new ones.
    if step % 2:
        x = x.flip(-1)
    losses: dict[int, Tensor] = {}

    def loss_of(number: int, part: Sequence[Tensor]) -> Tensor:
        x, codes = part
        vectors = vq.quantize.embedding.weight
        with half_precision(device):
            guess = vq.quant_conv(vq.encoder(x)).flatten(2).transpose(1, 2)
            y = vq.decode(codes)
        told = F.cross_entropy((guess.float() @ vectors.T).flatten(0, 1), codes.flatten())
        rebuilt = reconstruction_loss(y.float(), x, settings.edge_weight, settings.colour_weight)
        losses[number] = rebuilt.detach()
        return rebuilt + settings.code_weight * told

    trained = list(vq.parameters())
    shards.backward(loss_of, [x, book.codes(x)], trained)
    nn.utils.clip_grad_norm_(trained, 1.0)
    optimiser.step()
    vectors = vq.quantize.embedding.weight
    with torch.no_grad():
        vectors.copy_(F.normalize(vectors, dim=-1))
    return float(torch.stack([losses[number] for number in sorted(losses)]).mean())


@torch.no_grad()
def measure_vq(
    vq: JanusVQVAE, number: int, device: torch.device, book: Codebook | None = None
) -> dict[str, float]:
    """Reconstruction errors and code usage over `number` held-out scenes, by Janus' own functions.

    Returns:
        dict: "l1" (pixels in 0..1), "psnr" (dB), "perplexity" (of the codes' use, in codes),
        and "agreement" where a book is given: how often the encoder tells the code it says.
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
    measured = {
        "l1": float(error.abs().mean()),
        "psnr": float(-10 * error.square().mean().log10()),
        "perplexity": float((-(shares * shares.log()).sum()).exp()),
    }
    if book is not None:
        measured["agreement"] = float((torch.cat(indices) == book.codes(x)).float().mean())
    return measured
