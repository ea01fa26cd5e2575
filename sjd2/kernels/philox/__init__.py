"""Counter-addressed random numbers: every draw has an address, and there is no generator state.

A draw is `philox4x32_10(key = seed, counter = (token, position, iteration, stream))`. So
the numbers of a picture depend on its own seed and on the position of the draw, never on the batch
around it, the order of evaluation or a global generator.

Counter layout, four 32-bit words: c0 = token // 2, c1 = position, c2 = iteration, c3 = stream.
One block holds four words, that is two 64-bit uniforms: an even token's and its odd neighbour's.
In a race of groups of tokens, group `g` has the number of token 2^30 + g.

Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011); checked in the tests
against the known answers that the authors publish with Random123.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

from sjd2.kernels.philox import cpu
from sjd2.kernels.philox.constants import MASK32, MULTIPLIERS, ROUNDS, WEYL

# Tokens per group in a race of two stages, and the "token" that addresses the first group.
GROUP = 32
GROUPS_FROM = 2**30
# The largest float32 below one. Rounding could otherwise lift a uniform to exactly 1.
_BELOW_ONE = 1.0 - 2.0**-24


class Stream(IntEnum):
    """What a draw is for. Streams share no number, so decisions are independent."""

    DRAFT = 0
    ACCEPT = 1
    RESIDUAL = 2
    EMBED = 3


def philox4x32(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox 4x32-10, the bijection itself.

    Args:
        counter: four int64 tensors of values in [0, 2^32), broadcastable with each other.
        key: two int64 tensors of values in [0, 2^32), broadcastable with the counter.

    Returns:
        Four int64 tensors of values in [0, 2^32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        # A product of two 32-bit words overflows int64 in its sign only: masking mends the shift.
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((product1 >> 32) & MASK32) ^ c1 ^ k0,
            product1 & MASK32,
            ((product0 >> 32) & MASK32) ^ c3 ^ k1,
            product0 & MASK32,
        )
        k0, k1 = (k0 + WEYL[0]) & MASK32, (k1 + WEYL[1]) & MASK32
    return c0, c1, c2, c3


def uniform(
    seed: Tensor,
    position: Tensor,
    iteration: int | Tensor,
    stream: Stream,
    vocab_size: int = 1,
    first: Tensor | int = 0,
) -> Tensor:
    """Uniform numbers in the open interval (0, 1), one per address.

    Small values keep the relative precision of 64 random bits; none is ever 0 or 1.

    Args:
        seed: int64, any shape S; the picture's seed, all 64 bits of it.
        position: int64, shape S; absolute position in the picture, in [0, 2^31).
        iteration: forward count of the picture; 0 where a draw must not depend on it. One for all
            addresses, or int64 of shape S.
        stream: what the draw is for.
        vocab_size: numbers per address, one per token.
        first: the first token, even; one for all addresses, or int64 of shape S.

    Returns:
        float32, shape [*S, vocab_size].

    RNG: counter-addressed, no state.
    """
    block = torch.arange((vocab_size + 1) // 2, device=seed.device)
    block = block + (first // 2 if isinstance(first, int) else first.unsqueeze(-1) // 2)
    w0, w1, w2, w3 = _blocks(seed, position, iteration, stream, block)
    numbers = torch.stack((_fraction(w0, w1), _fraction(w2, w3)), dim=-1)
    return numbers.flatten(-2)[..., :vocab_size]


def uniform_token(
    seed: Tensor, position: Tensor, iteration: int | Tensor, stream: Stream, vocab_size: int
) -> Tensor:
    """One token per address, uniform over the vocabulary (to `vocab_size / 2^32`).

    Integer arithmetic throughout: a float32 uniform has too few bits to be fair to 32768 tokens.

    Args and RNG: as `uniform`.

    Returns:
        int64, shape S, in [0, vocab_size).
    """
    block = torch.zeros(1, dtype=torch.int64, device=seed.device)
    word = _blocks(seed, position, iteration, stream, block)[0].squeeze(-1)
    return (word * vocab_size) >> 32


def _fraction(high: Tensor, low: Tensor) -> Tensor:
    """64 random bits, as two words, as a float32 in (0, 1)."""
    value = high.to(torch.float32) * 2.0**-32 + (low.to(torch.float32) + 0.5) * 2.0**-64
    return value.clamp_(max=_BELOW_ONE)


def _blocks(
    seed: Tensor, position: Tensor, iteration: int | Tensor, stream: Stream, block: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four words of some Philox blocks of every address, each int64 [*S, n].

    `block` is int64 [n], of all addresses, or [*S, n].
    """
    if seed.device.type == "cpu":
        return cpu.blocks(seed, position, iteration, stream, block)
    # The constant words stay small, so only the later rounds work on the full shape.
    one = torch.ones((1,) * block.ndim, dtype=torch.int64, device=block.device)
    key = ((seed & MASK32).unsqueeze(-1), ((seed >> 32) & MASK32).unsqueeze(-1))
    when = one * iteration if isinstance(iteration, int) else iteration.unsqueeze(-1)
    counter = (block, position.unsqueeze(-1), when, one * int(stream))
    return philox4x32(counter, key)


def gumbel(
    seed: Tensor,
    position: Tensor,
    iteration: int | Tensor,
    stream: Stream,
    vocab_size: int,
    first: Tensor | int = 0,
) -> Tensor:
    """Standard Gumbel noise: `argmax(log p + gumbel)` is one exact draw from `p`.

    The exponential race behind it is won by *small* exponentials, so `-log1p(-u)` is used: it keeps
    full relative precision there, and tokens of tiny probability keep their true chance.

    Args and RNG: as `uniform`.

    Returns:
        float32, shape [*S, vocab_size].
    """
    return _as_gumbel(uniform(seed, position, iteration, stream, vocab_size, first))


def fixed_gumbel(seed: Tensor, position: Tensor, stream: Stream, vocab_size: int) -> Tensor:
    """`gumbel` of iteration 0, which every forward and every correction needs again.

    On a CPU it is computed once and remembered. Args and RNG: as `uniform`.

    Returns:
        float32, shape [*S, vocab_size].
    """
    if seed.device.type == "cpu" and seed.numel():
        return cpu.remembered(gumbel, seed, position, stream, vocab_size)
    return gumbel(seed, position, 0, stream, vocab_size)


def _as_gumbel(u: Tensor) -> Tensor:
    return -torch.log(-torch.log1p(-u))
