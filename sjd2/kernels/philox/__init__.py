"""Counter-addressed random numbers: every draw has an address, and no generator has a state.

A draw is `philox4x32_10(key = seed, counter = (token, position, iteration, stream))`. What a
picture receives therefore depends on its own seed and on where in the picture the draw is made,
never on the batch around it, on the order of evaluation, or on a global generator.

Counter layout, four 32-bit words: c0 = token // 2, c1 = position, c2 = iteration, c3 = stream.
One block holds four words, that is two 64-bit uniforms: an even token's and its odd neighbour's.
Where groups of tokens race, group `g` has the number that a token 2^30 + g would have.

Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011); checked in the tests
against the known answers that the authors publish with Random123.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

from sjd2.kernels.philox import cpu
from sjd2.kernels.philox.constants import BELOW_ONE, MASK32, MULTIPLIERS, ROUNDS, WEYL

# Tokens of a group, in a race of two stages, and the "token" that the first group counts as.
GROUP = 32
GROUPS_FROM = 2**30


class Stream(IntEnum):
    """What a draw is for. Streams never share a number, so no decision borrows another's luck."""

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
        vocab_size: how many tokens get a number of their own.
        first: the first of them, even; one for all addresses, or int64 of shape S.

    Returns:
        float32, shape [*S, vocab_size].

    RNG: counter-addressed, no state.
    """
    block = torch.arange((vocab_size + 1) // 2, device=seed.device)
    block = block + (first // 2 if isinstance(first, int) else first.unsqueeze(-1) // 2)
    if seed.device.type == "cpu":
        value = cpu.uniform(seed, position, iteration, stream, block)
        return value.view(*seed.shape, 2 * block.shape[-1])[..., :vocab_size]
    w0, w1, w2, w3 = _blocks(seed, position, iteration, stream, block)
    high, low = torch.stack((w0, w2), -1), torch.stack((w1, w3), -1)
    return _fraction(high, low).flatten(-2)[..., :vocab_size]


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
    return value.clamp_(max=BELOW_ONE)


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
    """`gumbel` of iteration 0, which every forward and every correction asks for.

    On a CPU it is made once and remembered. Args and RNG: as `uniform`.

    Returns:
        float32, shape [*S, vocab_size].
    """
    if seed.device.type == "cpu" and seed.numel():
        return cpu.remembered(gumbel, seed, position, stream, vocab_size)
    return gumbel(seed, position, 0, stream, vocab_size)


def gumbel_of(
    seed: Tensor, position: Tensor, iteration: int | Tensor, stream: Stream, token: Tensor
) -> Tensor:
    """The noise that `gumbel` gives to single tokens: less work where few can be drawn.

    Args and RNG: as `uniform`; `token` is int64 of shape S.

    Returns:
        float32, shape S.
    """
    words = _blocks(seed, position, iteration, stream, (token // 2).unsqueeze(-1))
    w0, w1, w2, w3 = (word.squeeze(-1) for word in words)
    is_odd = token % 2 == 1
    return _as_gumbel(_fraction(torch.where(is_odd, w2, w0), torch.where(is_odd, w3, w1)))


def _as_gumbel(u: Tensor) -> Tensor:
    return -torch.log(-torch.log1p(-u))
