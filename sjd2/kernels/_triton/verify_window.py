"""`verify_window` in two launches: first every column (`columns.py`), then every row (`rows.py`).

The mathematics is that of the eager twin, `kernels/reference/verify_window.py`. What differs is
that nothing of size [W, V] is written: a law stays what the model made it, logits, and three
numbers per column say how to read them as log-probabilities (see `law.py`).
"""

import math
from typing import Any

import torch
import triton
from torch import Tensor

from sjd2.kernels._triton.columns import MODES, STATS, columns_kernel
from sjd2.kernels._triton.launch import tiles_for
from sjd2.kernels._triton.rows import NEIGHBOUR, STARTS, rows_kernel
from sjd2.kernels.types import Rules, Verdict, Window


@torch.library.custom_op("sjd2::verify_window", mutates_args=())
def _verify_window(
    logits: Tensor,
    slots: Tensor,
    kinds: Tensor,
    law: Tensor,
    law_stats: Tensor | None,
    is_corrected: bool,
    offset: Tensor,
    seed: Tensor,
    position: Tensor,
    grammar: Tensor | None,
    noisy: Tensor | None,
    iteration: int,
    begun: Tensor | None,
    length: int,
    guidance_scale: float,
    temperature: float,
    top_k: int,
    top_p: float,
    mode: int,
    start: int,
    next_width: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    images, width, vocab = len(slots), logits.shape[1], logits.shape[2]
    outputs = _outputs(slots, width, next_width)
    accept_length, accepted, tokens, next_slots, next_kinds, stats = outputs
    kept = torch.empty(images, width, dtype=torch.int8, device=slots.device)
    token, redrawn = (torch.empty_like(tokens) for _ in range(2))
    tiles = tiles_for(vocab, top_p < 1.0)
    # Nothing is read through these where their flag is off.
    absent = slots
    columns_kernel[(width, images)](
        logits,
        law,
        law.shape[1],
        stats if law_stats is None else law_stats,
        slots,
        slots.stride(0),
        kinds,
        kinds.stride(0),
        offset,
        seed,
        position,
        absent if grammar is None else grammar,
        0 if grammar is None else len(grammar),
        kept,
        token,
        width,
        redrawn,
        stats,
        iteration,
        absent if begun is None else begun,
        vocab,
        -math.log(vocab),
        guidance_scale,
        1 / temperature,
        1.0 if is_corrected else 1 / temperature,
        top_p,
        MODE=mode,
        GUIDED=guidance_scale != 1.0,
        OLD_GUIDED=guidance_scale != 1.0 and not is_corrected,
        TOP_K=top_k if top_k < vocab else 0,
        TOP_P=top_p < 1.0,
        HAS_GRAMMAR=grammar is not None,
        HAS_BEGUN=begun is not None,
        **tiles,
    )
    entering = next_width if start == NEIGHBOUR.value else 0
    del tiles["BLOCK"], tiles["CHUNKS"]  # the laws have been made
    rows_kernel[(1 + entering, images)](
        logits,
        stats,
        kept,
        token,
        redrawn,
        slots,
        slots.stride(0),
        absent if noisy is None else noisy,
        0 if noisy is None else noisy.stride(0),
        seed,
        position,
        absent if grammar is None else grammar,
        0 if grammar is None else len(grammar),
        accept_length,
        accepted,
        tokens,
        next_slots,
        next_kinds,
        iteration,
        absent if begun is None else begun,
        length,
        vocab,
        width,
        next_width,
        guidance_scale,
        1 / temperature,
        MODE=mode,
        START=start,
        GUIDED=guidance_scale != 1.0,
        HAS_GRAMMAR=grammar is not None,
        HAS_BEGUN=begun is not None,
        HAS_NOISE=noisy is not None,
        COLUMNS=triton.next_power_of_2(max(width, next_width)),
        **(tiles if entering else tiles | {"num_warps": 1}),
    )
    return outputs


def _outputs(
    slots: Tensor, width: int, next_width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    images = slots.shape[0]
    return (
        slots.new_empty(images),
        slots.new_empty(images),
        slots.new_empty(images, width),
        slots.new_empty(images, next_width + 1),
        slots.new_empty(images, next_width, dtype=torch.uint8),
        slots.new_empty(images, width, STATS.value, dtype=torch.float32),
    )


@_verify_window.register_fake
def _(logits: Tensor, slots: Tensor, *args: Any) -> tuple[Tensor, ...]:
    return _outputs(slots, logits.shape[1], next_width=args[-1])


def verify_window(
    logits: Tensor,
    window: Window,
    rules: Rules,
    *,
    seed: Tensor,
    position: Tensor,
    iteration: int,
    begun: Tensor | None = None,
    length: int,
    grammar: Tensor | None = None,
    noisy: Tensor | None = None,
    next_width: int | None = None,
) -> Verdict:
    """Triton path of `sjd2.kernels.verify_window`; see there for the arguments."""
    logits = logits.contiguous()
    accept_length, accepted, tokens, slots, kinds, stats = _verify_window(
        logits,
        window.slots,
        window.kinds,
        window.law,
        window.law_stats,
        window.is_corrected,
        window.offset,
        seed,
        position,
        grammar,
        noisy,
        iteration,
        begun,
        length,
        rules.guidance_scale,
        rules.temperature,
        rules.top_k,
        rules.top_p,
        MODES[rules.coupling if rules.verify == "ratio" else rules.verify],
        STARTS[rules.start],
        next_width or logits.shape[1],
    )
    return Verdict(
        accept_length, accepted, tokens, Window(slots, kinds, logits, accept_length, stats)
    )
