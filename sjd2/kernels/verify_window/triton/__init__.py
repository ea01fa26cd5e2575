"""`verify_window` in two launches: first every column (`columns.py`), then every row (`rows.py`).

The mathematics is that of the eager twin, `kernels/verify_window/eager.py`, but nothing of size
[W, V] is written: a distribution is kept as the model's logits and three numbers per column that
turn them into log-probabilities (see `kernels/target/triton.py`).
"""

import math
from typing import Any

import torch
import triton
from torch import Tensor

from sjd2.kernels.tiles import tiles_for
from sjd2.kernels.types import Rules, Verdict, Window
from sjd2.kernels.verify_window.triton.columns import MODES, STATS, columns_kernel
from sjd2.kernels.verify_window.triton.rows import NEIGHBOUR, STARTS, rows_kernel


@torch.library.custom_op("sjd2::verify_window", mutates_args=())
def _verify_window(
    logits: Tensor,
    slots: Tensor,
    kinds: Tensor,
    draft_logits: Tensor,
    draft_stats: Tensor | None,
    is_processed: bool,
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
    # A placeholder: kernels do not read pointers that a flag declares absent.
    absent = slots
    shared: dict[str, Any] = {
        "logits": logits,
        "slots": slots,
        "slots_row": slots.stride(0),
        "seed": seed,
        "position": position,
        "grammar": absent if grammar is None else grammar,
        "grammar_length": 0 if grammar is None else len(grammar),
        "iteration": iteration,
        "begun": absent if begun is None else begun,
        "vocab": vocab,
        "guidance": guidance_scale,
        "cooling": 1 / temperature,
        "MODE": mode,
        "GUIDED": guidance_scale != 1.0,
        "HAS_GRAMMAR": grammar is not None,
        "HAS_BEGUN": begun is not None,
    }
    columns_kernel[(width, images)](
        **shared,
        draft_logits=draft_logits,
        draft_width=draft_logits.shape[1],
        draft_stats=stats if draft_stats is None else draft_stats,
        kinds=kinds,
        kinds_row=kinds.stride(0),
        offset=offset,
        kept_out=kept,
        token_out=token,
        token_row=width,
        redrawn_out=redrawn,
        stats_out=stats,
        log_uniform=-math.log(vocab),
        draft_cooling=1.0 if is_processed else 1 / temperature,
        top_p=top_p,
        DRAFT_GUIDED=guidance_scale != 1.0 and not is_processed,
        TOP_K=top_k if top_k < vocab else 0,
        TOP_P=top_p < 1.0,
        **tiles,
    )
    entering = next_width if start == NEIGHBOUR.value else 0
    del tiles["BLOCK"], tiles["CHUNKS"]  # only the first launch sweeps
    rows_kernel[(1 + entering, images)](
        **shared,
        stats=stats,
        kept_in=kept,
        token_in=token,
        redrawn_in=redrawn,
        noisy=absent if noisy is None else noisy,
        noisy_row=0 if noisy is None else noisy.stride(0),
        accept_length_out=accept_length,
        accepted_out=accepted,
        tokens_out=tokens,
        slots_out=next_slots,
        kinds_out=next_kinds,
        length=length,
        width=width,
        next_width=next_width,
        START=start,
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
def _(logits: Tensor, slots: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
    next_width: int = args[-1] if args else kwargs["next_width"]
    return _outputs(slots, logits.shape[1], next_width)


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
        slots=window.slots,
        kinds=window.kinds,
        draft_logits=window.draft_logits,
        draft_stats=window.draft_stats,
        is_processed=window.is_processed,
        offset=window.offset,
        seed=seed,
        position=position,
        grammar=grammar,
        noisy=noisy,
        iteration=iteration,
        begun=begun,
        length=length,
        guidance_scale=rules.guidance_scale,
        temperature=rules.temperature,
        top_k=rules.top_k,
        top_p=rules.top_p,
        mode=MODES[rules.coupling if rules.verify == "ratio" else rules.verify],
        start=STARTS[rules.start],
        next_width=next_width or logits.shape[1],
    )
    return Verdict(
        accept_length, accepted, tokens, Window(slots, kinds, logits, accept_length, stats)
    )
