"""A CPU corrects the few tokens that a small top-k leaves of a large vocabulary, and no others.

`bench/bench_cpu.py` times it beside the plain product.
"""

from __future__ import annotations

from torch import Tensor

from sjd2.kernels.target.cpu import is_host

_SHORTLIST = 1 / 64  # of the vocabulary; gathering the weights of more would take longer


def is_short(log_p: Tensor, top_k: int) -> bool:
    """Whether `shift_the_possible` pays; False on a GPU."""
    return is_host(log_p) and 0 < top_k <= _SHORTLIST * log_p.shape[-1]


def shift_the_possible(log_p: Tensor, change: Tensor, output: Tensor) -> Tensor:
    """`log_p + change @ output^T` where `log_p` [B, W, V] is finite; changes [B, W, r]."""
    vocab, scores = log_p.shape[-1], log_p.clone()
    # Image by image, or what is gathered leaves the cache.
    for flat, changes in zip(scores.view(len(log_p), -1), change, strict=True):
        listed = (flat > -float("inf")).nonzero().squeeze(1)
        column, token = listed // vocab, listed % vocab
        products = changes.index_select(0, column).mul_(output.index_select(0, token))
        flat.index_add_(0, listed, products.sum(dim=-1).to(flat.dtype))
    return scores
