"""Triton twin of `sjd2/kernels/philox/__init__.py`: the same address gives the same bits."""

import triton
import triton.language as tl


@triton.jit
def pair(seed, block, position, iteration, stream: tl.constexpr):
    """The two uniform numbers in (0, 1) of every Philox block: tokens 2 b and 2 b + 1."""
    w0, w1, w2, w3 = tl.philox(seed, block, position, iteration, stream)
    return _open_unit(w0, w1), _open_unit(w2, w3)


@triton.jit
def word(seed, position, iteration, stream: tl.constexpr):
    """The first 32 random bits of an address, uint64."""
    w0, _, _, _ = tl.philox(seed, position * 0, position, iteration, stream)
    return w0.to(tl.uint64)


@triton.jit
def gumbel(seed, first, position, iteration, stream: tl.constexpr, BLOCK: tl.constexpr):
    """Gumbel noise of the tokens first, first + 1, ..., first + BLOCK - 1; `first` is even."""
    block = first // 2 + tl.arange(0, BLOCK // 2)
    even, odd = pair(seed, block, position, iteration, stream)
    return -tl.log(_exponential(tl.interleave(even, odd)))


@triton.jit
def _open_unit(high, low):
    value = high.to(tl.float32) * 2.3283064365386963e-10
    value += (low.to(tl.float32) + 0.5) * 5.421010862427522e-20  # 2 ** -32 and 2 ** -64
    return tl.minimum(value, 0.999999940395355224609375)  # 1 - 2 ** -24


@triton.jit
def _exponential(u):
    """`-log1p(-u)` to full relative precision, from `log` alone (Kahan)."""
    rest = 1.0 - u
    is_one = rest == 1.0
    return tl.where(is_one, u, tl.log(rest) * (u / tl.where(is_one, 1.0, rest - 1.0)))
