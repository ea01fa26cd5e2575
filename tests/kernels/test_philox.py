"""The counter RNG: published answers, uniformity, independence of streams."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from sjd2.kernels import philox
from sjd2.kernels.philox import (
    Stream,
    _blocks,
    _fraction,
    cpu,
    fixed_gumbel,
    gumbel,
    philox4x32,
    uniform,
    uniform_token,
)
from tests.statistics import pearson, strays

ONES, ZEROS = "ffffffff ", "00000000 "
PI = ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0")
# Random123's kat_vectors for philox4x32-10: counter, key, result.
KNOWN_ANSWERS = [
    (ZEROS * 4, ZEROS * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    (ONES * 4, ONES * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (*PI, "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor(int(word, 16)) for word in text.split())


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_gives_the_published_known_answers(counter: str, key: str, answer: str) -> None:
    """Kills: nine rounds, a swapped word, a key that is not bumped."""
    result = philox4x32(words(counter), words(key))
    assert " ".join(f"{int(word):08x}" for word in result) == answer


@pytest.mark.parametrize(("rows", "count"), [(1, 1), (7, 3), (5, 4000), (20_000, 1)])
def test_numpy_gives_the_words_of_torch(rows: int, count: int) -> None:
    """Kills: words exchanged, a key that is not bumped, an address lost between chunks."""
    seed = torch.randint(2**62, (rows,)) * 2 + 1
    position = torch.randint(2**31, (rows,))
    block, one = torch.arange(count), torch.ones(1, dtype=torch.int64)
    key = ((seed & 0xFFFFFFFF).unsqueeze(-1), (seed >> 32).unsqueeze(-1))
    counter = (block, position.unsqueeze(-1), 2**31 * one, int(Stream.RESIDUAL) * one)
    expected = philox4x32(counter, key)
    found = _blocks(seed, position, 2**31, Stream.RESIDUAL, block)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs.expand_as(ours))


def test_every_token_has_its_own_words() -> None:
    """Kills: odd and even tokens exchanged, the low words taken for the high ones, no clamp."""
    seed, position = torch.randint(2**62, (9,)), torch.randint(2**31, (9,))
    w0, w1, w2, w3 = _blocks(seed, position, 3, Stream.DRAFT, torch.arange(50) + 4)
    found = uniform(seed, position, 3, Stream.DRAFT, 99, 8).double()
    for words, ours in (((w0, w1), found[:, 0::2]), ((w2, w3), found[:, 1::2])):
        high, low = (word[:, : ours.shape[1]].double() for word in words)
        expected = high * 2.0**-32 + (low + 0.5) * 2.0**-64
        torch.testing.assert_close(ours, expected, rtol=2.0**-23, atol=0)
    largest = torch.full((1,), 2**32 - 1)
    assert _fraction(largest, largest).max() < 1


def addresses(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(count), torch.zeros(count, dtype=torch.int64)


def test_uniform_stays_inside_the_open_interval_at_the_extremes() -> None:
    """Kills: a clamp left out, after which the largest word rounds to exactly 1."""
    seed, position = addresses(200_000)
    u = uniform(seed, position, 1, Stream.ACCEPT, 16)
    assert u.min() > 0
    assert u.max() < 1


def moments() -> float:
    """How far means and variances are off."""
    seed, position = addresses(100_000)
    u = uniform(seed, position, 1, Stream.ACCEPT, 7).double().flatten()
    g = gumbel(seed, position, 1, Stream.ACCEPT, 7).double().flatten()
    of_u, of_g = 1 / 12, torch.pi**2 / 6
    mean = strays(u.mean(), 1 / 2, (of_u / len(u)) ** 0.5, sees=0.003)
    variance = strays(u.var(), of_u, (1 / 180 / len(u)) ** 0.5, sees=0.0008)
    # A Gumbel variable's fourth central moment is 27/5 of its variance squared.
    loud = strays(g.mean(), 0.5772156649, (of_g / len(g)) ** 0.5, sees=0.013)
    wide = strays(g.var(), of_g, (4.4 / len(g)) ** 0.5 * of_g, sees=0.034)
    return max(mean, variance, loud, wide)


def test_uniform_and_gumbel_have_their_moments() -> None:
    """Kills: a 31-bit word, a sign error, `log1p(u)` for `log1p(-u)`."""
    assert moments() < 1


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda high: high * 99 // 100, id="smaller"),
        pytest.param(lambda high: high // 2 + 2**30, id="narrower"),
    ],
)
def test_numbers_that_are_a_little_off_are_found_out(
    wrong: Callable[[torch.Tensor], torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power of the test above."""
    right = _fraction
    monkeypatch.setattr(philox, "_fraction", lambda high, low: right(wrong(high), low))
    assert moments() > 1


def test_fixed_noise_is_the_same_in_every_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kills: a remembered row of another seed, position, stream or vocabulary; one written over."""
    monkeypatch.setattr(cpu, "_REMEMBERED", 200)
    generator = torch.Generator().manual_seed(1)
    for vocab_size, stream in [(9, Stream.DRAFT), (10, Stream.DRAFT), (9, Stream.RESIDUAL)] * 3:
        seed = torch.randint(3, (2, 4), generator=generator)
        position = torch.randint(5, (2, 4), generator=generator)
        noise = fixed_gumbel(seed, position, stream, vocab_size)
        computed = -torch.log(-torch.log1p(-uniform(seed, position, 0, stream, vocab_size)))
        assert torch.equal(noise, computed)
        noise.zero_()
    nothing = torch.zeros(0, dtype=torch.int64)
    assert fixed_gumbel(nothing, nothing, Stream.DRAFT, 9).shape == (0, 9)


@pytest.mark.parametrize("vocab_size", [1, 2, 7, 16, 257])
def test_uniform_of_a_token_does_not_depend_on_the_vocabulary(vocab_size: int) -> None:
    """Kills: blocks counted from the end, an odd vocabulary that shifts its neighbours."""
    seed, position = addresses(5)
    whole = uniform(seed, position, 3, Stream.DRAFT, 300)
    part = uniform(seed, position, 3, Stream.DRAFT, vocab_size)
    assert torch.equal(part, whole[:, :vocab_size])


def test_every_part_of_the_address_changes_the_draw() -> None:
    """Kills: a counter word that is dropped; a key cut to 32 bits."""
    one = torch.tensor([1])
    draws = [
        uniform(one, one, 1, Stream.DRAFT),
        uniform(one + 1, one, 1, Stream.DRAFT),
        uniform(one + 2**32, one, 1, Stream.DRAFT),
        uniform(one, one + 1, 1, Stream.DRAFT),
        uniform(one, one, 2, Stream.DRAFT),
        uniform(one, one, 1, Stream.ACCEPT),
        uniform(one, one, 1, Stream.RESIDUAL),
        uniform(one, one, 1, Stream.DRAFT, 2)[..., 1:],
    ]
    assert len({float(draw) for draw in draws}) == len(draws)


def correlation(shared: float) -> float:
    """How far streams are from independent, if a share of their numbers is the first's."""
    seed, position = addresses(50_000)
    draws = torch.stack([uniform(seed, position, 1, stream).squeeze(-1) for stream in Stream])
    draws[:, : int(shared * len(seed))] = draws[0, : int(shared * len(seed))]
    found = torch.corrcoef(draws.double()) - torch.eye(len(Stream))
    return strays(found, 0.0, len(seed) ** -0.5, sees=0.037)


def test_streams_are_uncorrelated() -> None:
    """Kills: two streams with the same number, which Python takes for two names of one."""
    assert len(Stream) == len(Stream.__members__) == 4
    assert correlation(shared=0) < 1
    # The power of it.
    assert correlation(shared=0.05) > 1


@pytest.mark.parametrize("vocab_size", [3, 1000, 16384])
def test_uniform_tokens_are_fair(vocab_size: int) -> None:
    """Kills: an off-by-one that never draws the last token; a rounding that favours some."""
    seed, position = addresses(450_000)
    tokens = uniform_token(seed, position, 1, Stream.DRAFT, vocab_size)
    assert tokens.min() >= 0
    assert tokens.max() == vocab_size - 1
    assert thirds(tokens, vocab_size) < 1
    # The power of it: one token in a hundred exchanged for the first.
    tokens[::100] = 0
    assert thirds(tokens, vocab_size) > 1


def thirds(tokens: torch.Tensor, vocab_size: int) -> float:
    """How far the thirds of a vocabulary are from fair."""
    cells = torch.bincount(tokens * 3 // vocab_size, minlength=3).double()
    share = torch.bincount(torch.arange(vocab_size) * 3 // vocab_size).double() / vocab_size
    return pearson(cells, share * len(tokens), sees=0.0135)


def test_no_global_generator_is_touched() -> None:
    """Kills: a convenience `torch.rand` anywhere in the draws."""
    before = torch.get_rng_state()
    gumbel(*addresses(10), 1, Stream.DRAFT, 5)
    assert torch.equal(before, torch.get_rng_state())


def test_every_stream_has_a_number_of_its_own() -> None:
    """Kills: two names for one stream, which a loop over the streams does not even see."""
    numbers = [int(stream) for stream in Stream.__members__.values()]
    assert len(set(numbers)) == len(numbers) == 4
