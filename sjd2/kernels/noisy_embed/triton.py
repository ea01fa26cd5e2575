"""`noisy_embed` with its backward, and `denoise_step`."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sjd2.kernels.philox import Stream
from sjd2.kernels.philox import triton as philox
from sjd2.kernels.tiles import EXACT, warps

_EMBED = tl.constexpr(int(Stream.EMBED))
_BLOCK = 1024


@triton.jit
def _direction(turns):
    """Cosine and sine of `turns` in (0, 1), in full turns.

    By the Taylor series of half the angle, from -pi/2 to pi/2, exact to rounding. `tl.cos` and
    `tl.sin` would need stack memory to reduce large arguments.
    """
    x = (turns - 0.5) * 3.141592653589793
    y = x * x
    cos = 1 - y / 2 * (1 - y / 12 * (1 - y / 30 * (1 - y / 56 * (1 - y / 90 * (1 - y / 132)))))
    sin = x * (1 - y / 6 * (1 - y / 20 * (1 - y / 42 * (1 - y / 72 * (1 - y / 110)))))
    # The double angle, turned by half a turn.
    return 2 * sin * sin - 1, -2 * sin * cos


@triton.jit
def mixed(embedding, level, mean, std, seed, at, part, inside, BLOCK: tl.constexpr):
    """A part of an embedding with noise of a level and a picture position: float32 [BLOCK]."""
    dimensions = part * BLOCK + tl.arange(0, BLOCK)
    centre = tl.load(mean + dimensions, mask=inside).to(tl.float32)
    spread = tl.load(std + dimensions, mask=inside, other=1.0).to(tl.float32)
    clean = (embedding.to(tl.float32) - centre) / spread
    block = part * (BLOCK // 2) + tl.arange(0, BLOCK // 2)
    first, second = philox.pair(seed, block, at, at * 0, _EMBED)
    radius = tl.sqrt(-2.0 * tl.log(first))
    cos, sin = _direction(second)
    noise = tl.interleave(radius * cos, radius * sin)
    return spread * ((1 - level) * clean + level * noise) + centre


@triton.jit
def denoised(old, clean, kept):
    """A step towards a clean embedding, which keeps so much of the old: the dtype of `clean`."""
    step = kept * old.to(tl.float32) + (1 - kept) * clean.to(tl.float32)
    return step.to(clean.dtype)


@triton.jit
def embed_kernel(
    tokens,
    tokens_row,
    table,
    table_row,
    timestep,
    timestep_row,
    mean,
    std,
    time_embedding,
    time_row,
    time_slot,
    seed,
    position,
    out,
    copies,
    out_copy,
    width,
    size,
    HAS_NOISE: tl.constexpr,
    HAS_TIME: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A part of one slot's embedding, to every copy of the batch."""
    slot, image, part = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    dimensions = part * BLOCK + tl.arange(0, BLOCK)
    inside = dimensions < size
    token = tl.load(tokens + image * tokens_row + slot)
    embedding = tl.load(table + token * table_row + dimensions, mask=inside)
    if HAS_NOISE:
        level = tl.load(timestep + image * timestep_row + slot).to(tl.float32)
        if level > 0:
            at = tl.load(position + image).to(tl.int32) + slot
            noisy = mixed(
                embedding, level, mean, std, tl.load(seed + image), at, part, inside, BLOCK
            )
            if HAS_TIME:
                time = time_embedding + image * time_row + slot * time_slot + dimensions
                noisy += tl.load(time, mask=inside).to(tl.float32)
            embedding = noisy.to(embedding.dtype)
    entry = (image * width + slot) * size + dimensions
    for copy in range(copies):
        tl.store(out + copy * out_copy + entry, embedding, mask=inside)


@triton.jit
def denoise_kernel(embeddings, clean, timestep, next_timestep, out, size, BLOCK: tl.constexpr):
    """A part of one slot."""
    slot, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    dimensions = part * BLOCK + tl.arange(0, BLOCK)
    inside = dimensions < size
    level = tl.load(timestep + slot).to(tl.float32)
    kept = 0.0
    if level > 0:
        kept = tl.load(next_timestep + slot).to(tl.float32) / level
    step = tl.load(clean + slot * size + dimensions, mask=inside)
    if kept > 0:
        old = tl.load(embeddings + slot * size + dimensions, mask=inside)
        step = denoised(old, step, kept)
    tl.store(out + slot * size + dimensions, step, mask=inside)


def block_of(size: int) -> int:
    """Dimensions that a program takes, of `size`."""
    block: int = min(_BLOCK, max(2, triton.next_power_of_2(size)))
    return block


@torch.library.custom_op("sjd2::noisy_embed", mutates_args=())
def _noisy_embed(
    tokens: Tensor,
    table: Tensor,
    timestep: Tensor | None,
    mean: Tensor | None,
    std: Tensor | None,
    time_embedding: Tensor | None,
    seed: Tensor | None,
    position: Tensor | None,
    copies: int,
) -> Tensor:
    images, width = tokens.shape
    size = table.shape[1]
    out = table.new_empty(copies * images, width, size)
    # `table` is a placeholder for absent arguments, which the kernel does not read.
    time_row, time_slot = (0, 0) if time_embedding is None else time_embedding.stride()[:2]
    embed_kernel[(width, images, triton.cdiv(size, block_of(size)))](
        tokens=tokens,
        tokens_row=tokens.stride(0),
        table=table,
        table_row=table.stride(0),
        timestep=table if timestep is None else timestep,
        timestep_row=0 if timestep is None else timestep.stride(0),
        mean=table if mean is None else mean,
        std=table if std is None else std,
        time_embedding=table if time_embedding is None else time_embedding,
        time_row=time_row,
        time_slot=time_slot,
        seed=table if seed is None else seed,
        position=table if position is None else position,
        out=out,
        copies=copies,
        out_copy=images * width * size,
        width=width,
        size=size,
        HAS_NOISE=timestep is not None,
        HAS_TIME=time_embedding is not None,
        BLOCK=block_of(size),
        num_warps=warps(128),
        **EXACT,
    )
    return out


@_noisy_embed.register_fake
def _(tokens: Tensor, table: Tensor, *args: object) -> Tensor:
    copies = args[-1]
    assert isinstance(copies, int)
    return table.new_empty(copies * tokens.shape[0], tokens.shape[1], table.shape[1])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tokens, table, timestep, *_, time_embedding, _, _, copies = inputs
    ctx.save_for_backward(tokens, timestep)
    ctx.table, ctx.copies, ctx.has_time = table.shape, copies, time_embedding is not None


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The gradient of a slot reaches the table by the share of its clean embedding."""
    tokens, timestep = ctx.saved_tensors
    grad = grad.view(ctx.copies, *tokens.shape, -1).sum(0)
    to_time = None
    share = grad
    if timestep is not None:
        level = timestep.unsqueeze(-1)
        share = grad * (1 - level).to(grad.dtype)
        if ctx.has_time:
            to_time = torch.where(level > 0, grad, 0)
    to_table = torch.zeros(ctx.table, dtype=torch.float32, device=grad.device)
    to_table.index_add_(0, tokens.flatten(), share.flatten(0, 1).float())
    return None, to_table.to(grad.dtype), None, None, None, to_time, None, None, None


_noisy_embed.register_autograd(_backward, setup_context=_save)


@torch.library.custom_op("sjd2::denoise_step", mutates_args=())
def _denoise_step(
    embeddings: Tensor, clean: Tensor, timestep: Tensor, next_timestep: Tensor
) -> Tensor:
    slots, size = timestep.numel(), embeddings.shape[-1]
    out = torch.empty_like(embeddings)
    denoise_kernel[(slots, triton.cdiv(size, block_of(size)))](
        embeddings=embeddings,
        clean=clean,
        timestep=timestep,
        next_timestep=next_timestep,
        out=out,
        size=size,
        BLOCK=block_of(size),
        num_warps=warps(128),
        **EXACT,
    )
    return out


@_denoise_step.register_fake
def _(embeddings: Tensor, *args: object) -> Tensor:
    return torch.empty_like(embeddings)


def noisy_embed(
    tokens: Tensor,
    table: Tensor,
    *,
    timestep: Tensor | None = None,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    time_embedding: Tensor | None = None,
    seed: Tensor | None = None,
    position: Tensor | None = None,
    copies: int = 1,
) -> Tensor:
    """Triton path of `sjd2.kernels.noisy_embed`; see there for the arguments."""
    if timestep is not None and any(given is None for given in (mean, std, seed, position)):
        raise ValueError("timestep is given: mean, std, seed and position are needed with it")
    out: Tensor = _noisy_embed(
        tokens, table, timestep, mean, std, time_embedding, seed, position, copies
    )
    return out


def denoise_step(
    embeddings: Tensor, clean: Tensor, timestep: Tensor, next_timestep: Tensor
) -> Tensor:
    """Triton path of `sjd2.kernels.denoise_step`; see there for the arguments."""
    out: Tensor = _denoise_step(
        embeddings.contiguous(),
        clean.contiguous(),
        timestep.contiguous(),
        next_timestep.contiguous(),
    )
    return out
