"""`commit_window`: tokens into pictures, positions and lengths on, in one launch."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sjd2.kernels.types import Verdict


@triton.jit
def commit_kernel(
    tokens,
    accept_length,
    rows,
    pictures,
    position,
    lengths,
    picture_row,
    width,
    copies,
    COLUMNS: tl.constexpr,
):
    """One row of the batch; guidance rows are the same images again, behind all of them."""
    image, images = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    columns = tl.arange(0, COLUMNS)
    inside = columns < width
    at = tl.load(position + image)
    committed = tl.load(accept_length + image)
    new = tl.load(tokens + image * width + columns, mask=inside)
    picture = pictures + tl.load(rows + image) * picture_row + at
    tl.store(picture + columns, new, mask=inside)
    tl.store(position + image, at + committed)
    for copy in range(copies):
        length = lengths + copy * images + image
        tl.store(length, tl.load(length) + committed)


@torch.library.custom_op("sjd2::commit_window", mutates_args=("pictures", "position", "lengths"))
def _commit_window(
    tokens: Tensor,
    accept_length: Tensor,
    rows: Tensor,
    pictures: Tensor,
    position: Tensor,
    lengths: Tensor,
) -> None:
    images, width = tokens.shape
    commit_kernel[(images,)](
        tokens,
        accept_length,
        rows,
        pictures,
        position,
        lengths,
        pictures.stride(0),
        width,
        len(lengths) // images,
        COLUMNS=triton.next_power_of_2(width),
        num_warps=1,
    )


@_commit_window.register_fake
def _(*args: object) -> None:
    return None


def commit_window(
    verdict: Verdict, rows: Tensor, pictures: Tensor, position: Tensor, lengths: Tensor
) -> None:
    """Triton path of `sjd2.kernels.commit_window`; see there for the arguments."""
    _commit_window(verdict.tokens, verdict.accept_length, rows, pictures, position, lengths)
