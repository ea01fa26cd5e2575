"""A transformers decoder, called as windows need it: explicit positions, a mask for every row."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache, partial
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import Cache

_SHAPES = 1024  # that a forward may be compiled for; dynamo's default of 8 is two batch sizes
# Of every backbone; windows of several threads may run it at once.
_LOCKS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def run_backbone(
    backbone: Any, embeddings: Tensor, positions: Tensor, mask: Tensor, cache: Cache
) -> Tensor:
    """One forward of a transformers decoder; arguments and result as `ImageModel.hidden`."""
    forward = backbone
    if getattr(cache, "is_compiled", False):
        forward = partial(_compiled(type(backbone).forward), backbone)
    with _masked_attention(backbone):
        hidden: Tensor = forward(
            inputs_embeds=embeddings,
            attention_mask=mask_for(backbone.config, mask, embeddings.dtype),
            position_ids=positions,
            use_cache=True,
            **{_cache_argument(backbone.__class__): cache},
        ).last_hidden_state
    # Layers may lie on several devices, the last one elsewhere than the first.
    return hidden.to(embeddings.device)


@lru_cache
def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward of a class, compiled for every shape of windows and every extent of the cache."""
    compiled = torch.compile(forward, fullgraph=True, dynamic=False)
    # A shape has a few extents of the cache, and there are as many shapes as the caller draws in.
    limits = {"recompile_limit": _SHAPES, "accumulated_recompile_limit": _SHAPES}

    def limited(*args: Any, **kwargs: Any) -> Any:
        with torch._dynamo.config.patch(limits):
            return compiled(*args, **kwargs)

    return limited


@contextmanager
def _masked_attention(backbone: Any) -> Iterator[None]:
    """Inside the block SDPA stands in for flash and flex attention, which take no mask per row."""
    config = backbone.config
    with own_attention(backbone) as given:
        if not _is_maskless(given):
            yield
            return
        config._attn_implementation = "sdpa"
        try:
            yield
        finally:
            config._attn_implementation = given


@contextmanager
def own_attention(backbone: Any) -> Iterator[str]:
    """Inside the block a backbone has the attention that it was loaded with, and is told by name.

    Only where another thread could put SDPA in its place does the block wait for that thread, and
    keep others waiting.
    """
    lock = _LOCKS.setdefault(backbone, RLock())
    with ExitStack() as held:
        held.enter_context(lock)
        config = getattr(backbone, "config", None)
        given = getattr(config, "_attn_implementation", None) or ""
        if not _is_maskless(given):
            held.close()
        yield given


def _is_maskless(implementation: str) -> bool:
    return "flash" in implementation or "flex" in implementation


@lru_cache
def _cache_argument(backbone: Any) -> str:
    """What a class calls its cache: transformers 5.24 renamed it, and warns of the old name."""
    known = inspect.signature(backbone.forward).parameters
    return "cache" if "cache" in known else "past_key_values"


def check_attention(model: Any, config: Any) -> None:
    """Refuse a model that a window over the whole prefix would not be faithful to.

    Args:
        model: a transformers model.
        config: its text model's configuration.

    Raises:
        ValueError: some layer is recurrent, or sees part of the prefix only.
    """
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds and getattr(config, "sliding_window", None) is not None:
        kinds = {"sliding_attention"}
    if getattr(model, "_is_stateful", False):
        kinds.add("recurrent")
    odd = sorted(kinds - {"full_attention"})
    if odd:
        raise ValueError(
            f"model: a {type(model).__name__} with layers of kind {', '.join(odd)}; windows are "
            "decoded where every layer attends to the whole prefix"
        )


def mask_for(config: Any, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask in the form that a model's attention takes.

    A boolean mask is right for SDPA but would silently be *added* by eager attention.

    Args:
        config: the text model's configuration, asked for its attention implementation.
        mask: bool [R, 1, W, S], True where a slot sees an entry.
        dtype: of the hidden states.

    Returns:
        [R, 1, W, S], bool for SDPA, additive for eager attention.

    Raises:
        ValueError: an attention implementation that takes no mask of one's own.
    """
    implementation = config._attn_implementation
    if implementation == "sdpa":
        return mask
    if implementation == "eager":
        hidden = torch.zeros((), dtype=dtype, device=mask.device)
        return torch.where(mask, hidden, torch.finfo(dtype).min)
    raise ValueError(
        f"attn_implementation={implementation!r} takes no per-row mask; load the model with "
        "attn_implementation='sdpa' or 'eager'"
    )
