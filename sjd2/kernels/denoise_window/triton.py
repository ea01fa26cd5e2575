"""`denoise_window` and `embed_window`, a launch each."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sjd2.kernels.noisy_embed.triton import block_of, denoised, mixed
from sjd2.kernels.tiles import EXACT, warps
from sjd2.kernels.types import Noise
from sjd2.kernels.verify_window.triton.columns import forced_at


@triton.jit
def denoise_window_kernel(
    embeddings,
    embeddings_row,
    embeddings_slot,
    steps,
    steps_row,
    old_width,
    tokens,
    tokens_row,
    accept_length,
    levels,
    entering,
    most,
    mean,
    std,
    table,
    table_row,
    seed,
    position,
    grammar,
    grammar_length,
    out,
    steps_out,
    width,
    size,
    HAS_GRAMMAR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A part of one draft of the next window."""
    column, image, part = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    dimensions = part * BLOCK + tl.arange(0, BLOCK)
    inside = dimensions < size
    source = column + tl.load(accept_length + image)
    old = tl.minimum(source, old_width - 1)
    before = tl.load(steps + image * steps_row + old)
    after = tl.where(source < old_width, tl.maximum(before - 1, 0), entering)
    after = tl.minimum(after, tl.load(most + column))
    at = tl.load(position + image) + column
    if HAS_GRAMMAR:
        after = tl.where(forced_at(grammar, at, grammar_length) >= 0, 0, after)
    token = tl.load(tokens + image * tokens_row + column)
    embedding = tl.load(table + token * table_row + dimensions, mask=inside)
    if after > 0:
        level = tl.load(levels + after)
        if source < old_width:
            kept = level / tl.load(levels + before)
            was = embeddings + image * embeddings_row + old * embeddings_slot + dimensions
            embedding = denoised(tl.load(was, mask=inside), embedding, kept)
        else:
            number = tl.load(seed + image)
            noisy = mixed(embedding, level, mean, std, number, at.to(tl.int32), part, inside, BLOCK)
            embedding = noisy.to(embedding.dtype)
    tl.store(out + (image * width + column) * size + dimensions, embedding, mask=inside)
    if part == 0:
        tl.store(steps_out + image * width + column, after)


@triton.jit
def embed_window_kernel(
    slots,
    slots_row,
    embeddings,
    embeddings_row,
    embeddings_slot,
    steps,
    steps_row,
    times,
    table,
    table_row,
    out,
    noisy_out,
    copies,
    images,
    width,
    size,
    BLOCK: tl.constexpr,
):
    """A part of one slot, to every copy of the batch."""
    slot, image, part = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    dimensions = part * BLOCK + tl.arange(0, BLOCK)
    inside = dimensions < size
    # Slot 0 holds a token; the one behind a column holds its draft.
    draft = tl.maximum(slot - 1, 0)
    to_go = tl.where(slot > 0, tl.load(steps + image * steps_row + draft), 0)
    token = tl.load(slots + image * slots_row + slot)
    embedding = tl.load(table + token * table_row + dimensions, mask=inside)
    if to_go > 0:
        draft_at = embeddings + image * embeddings_row + draft * embeddings_slot
        noise = tl.load(draft_at + dimensions, mask=inside).to(tl.float32)
        time = tl.load(times + to_go * size + dimensions, mask=inside).to(tl.float32)
        embedding = (noise + time).to(embedding.dtype)
    for copy in range(copies):
        entry = (copy * images + image) * width + slot
        tl.store(out + entry * size + dimensions, embedding, mask=inside)
        if part == 0:
            tl.store(noisy_out + entry, to_go > 0)


@torch.library.custom_op("sjd2::denoise_window", mutates_args=())
def _denoise_window(
    embeddings: Tensor,
    steps: Tensor,
    tokens: Tensor,
    levels: Tensor,
    most: Tensor,
    mean: Tensor,
    std: Tensor,
    table: Tensor,
    accept_length: Tensor,
    seed: Tensor,
    position: Tensor,
    grammar: Tensor | None,
) -> tuple[Tensor, Tensor]:
    images, width = tokens.shape
    size = table.shape[1]
    out, steps_out = outputs = table.new_empty(images, width, size), torch.empty_like(tokens)
    denoise_window_kernel[(width, images, triton.cdiv(size, block_of(size)))](
        embeddings=embeddings,
        embeddings_row=embeddings.stride(0),
        embeddings_slot=embeddings.stride(1),
        steps=steps,
        steps_row=steps.stride(0),
        old_width=steps.shape[1],
        tokens=tokens,
        tokens_row=tokens.stride(0),
        accept_length=accept_length,
        levels=levels,
        entering=len(levels) - 1,
        most=most,
        mean=mean,
        std=std,
        table=table,
        table_row=table.stride(0),
        seed=seed,
        position=position,
        grammar=tokens if grammar is None else grammar,
        grammar_length=0 if grammar is None else len(grammar),
        out=out,
        steps_out=steps_out,
        width=width,
        size=size,
        HAS_GRAMMAR=grammar is not None,
        BLOCK=block_of(size),
        num_warps=warps(128),
        **EXACT,
    )
    return outputs


@torch.library.custom_op("sjd2::embed_window", mutates_args=())
def _embed_window(
    slots: Tensor, embeddings: Tensor, steps: Tensor, times: Tensor, table: Tensor, copies: int
) -> tuple[Tensor, Tensor]:
    images, width = slots.shape
    size = table.shape[1]
    out, noisy = outputs = _fed(slots, table, copies)
    embed_window_kernel[(width, images, triton.cdiv(size, block_of(size)))](
        slots=slots,
        slots_row=slots.stride(0),
        embeddings=embeddings,
        embeddings_row=embeddings.stride(0),
        embeddings_slot=embeddings.stride(1),
        steps=steps,
        steps_row=steps.stride(0),
        times=times,
        table=table,
        table_row=table.stride(0),
        out=out,
        noisy_out=noisy,
        copies=copies,
        images=images,
        width=width,
        size=size,
        BLOCK=block_of(size),
        num_warps=warps(128),
        **EXACT,
    )
    return outputs


@_denoise_window.register_fake
def _(embeddings: Tensor, steps: Tensor, tokens: Tensor, *args: object) -> tuple[Tensor, Tensor]:
    size = embeddings.shape[2]
    return embeddings.new_empty(*tokens.shape, size), torch.empty_like(tokens)


def _fed(slots: Tensor, table: Tensor, copies: int) -> tuple[Tensor, Tensor]:
    images, width = slots.shape
    return (
        table.new_empty(copies * images, width, table.shape[1]),
        slots.new_empty(copies * images, width, dtype=torch.bool),
    )


@_embed_window.register_fake
def _(
    slots: Tensor, embeddings: Tensor, steps: Tensor, times: Tensor, table: Tensor, copies: int
) -> tuple[Tensor, Tensor]:
    return _fed(slots, table, copies)


def denoise_window(
    embeddings: Tensor,
    steps: Tensor,
    tokens: Tensor,
    noise: Noise,
    table: Tensor,
    *,
    accept_length: Tensor,
    seed: Tensor,
    position: Tensor,
    grammar: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Triton path of `sjd2.kernels.denoise_window`; see there for the arguments."""
    out: tuple[Tensor, Tensor] = _denoise_window(
        embeddings,
        steps,
        tokens,
        noise.levels,
        noise.most,
        noise.mean,
        noise.std,
        table,
        accept_length,
        seed,
        position,
        grammar,
    )
    return out


def embed_window(
    slots: Tensor,
    embeddings: Tensor,
    steps: Tensor,
    noise: Noise,
    table: Tensor,
    *,
    copies: int = 1,
) -> tuple[Tensor, Tensor]:
    """Triton path of `sjd2.kernels.embed_window`; see there for the arguments."""
    out: tuple[Tensor, Tensor] = _embed_window(slots, embeddings, steps, noise.times, table, copies)
    return out
