"""`commit_window` as one launch."""

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
    picture_row,
    width,
    COLUMNS: tl.constexpr,
):
    """One picture of the batch."""
    image = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    inside = columns < width
    at = tl.load(position + image)
    committed = tl.load(accept_length + image)
    new = tl.load(tokens + image * width + columns, mask=inside)
    picture = pictures + tl.load(rows + image) * picture_row + at
    tl.store(picture + columns, new, mask=inside)
    tl.store(position + image, at + committed)


@torch.library.custom_op("sjd2::commit_window", mutates_args=("pictures", "position"))
def _commit_window(
    tokens: Tensor, accept_length: Tensor, rows: Tensor, pictures: Tensor, position: Tensor
) -> None:
    images, width = tokens.shape
    commit_kernel[(images,)](
        tokens=tokens,
        accept_length=accept_length,
        rows=rows,
        pictures=pictures,
        position=position,
        picture_row=pictures.stride(0),
        width=width,
        COLUMNS=triton.next_power_of_2(width),
        num_warps=1,
    )


@_commit_window.register_fake
def _(*args: object) -> None:
    return None


def commit_window(verdict: Verdict, rows: Tensor, pictures: Tensor, position: Tensor) -> None:
    """Triton path of `sjd2.kernels.commit_window`; see there for the arguments."""
    _commit_window(verdict.tokens, verdict.accept_length, rows, pictures, position)
