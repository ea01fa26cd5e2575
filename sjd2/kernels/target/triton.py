"""The distribution of a column from its logits, and draws from it, without writing it to memory.

Functions share three tuples. `source` is where logits are and how they are scaled: (pointer to the
row, pointer to its unconditional twin, vocabulary, guidance scale, one over the temperature).
`stats` turns those scores into log-probabilities: (peak, log of the sum, cut). `drafted` is
a draft and its distribution: (its token, whether the distribution is stored, its `source` and
`stats`, whether it is uniform, log-probability of a uniform token).
"""

import triton
import triton.language as tl

from sjd2.kernels.philox import GROUP, GROUPS_FROM, Stream
from sjd2.kernels.philox import triton as philox

_DRAFT = tl.constexpr(int(Stream.DRAFT))
_RESIDUAL = tl.constexpr(int(Stream.RESIDUAL))
_GROUP = tl.constexpr(GROUP)
_GROUPS_FROM = tl.constexpr(GROUPS_FROM)


@triton.jit
def scores(source, tokens, GUIDED: tl.constexpr):
    """Guided logits over the temperature; -inf outside the vocabulary."""
    row, twin, vocab, guidance, cooling = source
    inside = tokens < vocab
    score = tl.load(row + tokens, mask=inside, other=0.0).to(tl.float32)
    if GUIDED:
        free = tl.load(twin + tokens, mask=inside, other=0.0).to(tl.float32)
        score = free + guidance * (score - free)
    return tl.where(inside, score * cooling, -float("inf"))


@triton.jit
def log_probabilities(score, stats):
    """Log-probabilities of scores."""
    peak, log_sum, cut = stats
    return tl.where(score < cut, -float("inf"), (score - peak) - log_sum)


@triton.jit
def _rank(score):
    """Unsigned integers that are ordered as the floats are."""
    bits = score.to(tl.int32, bitcast=True)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return ordered.to(tl.uint32, bitcast=True) ^ 0x80000000


@triton.jit
def _score_of_rank(rank):
    ordered = (rank ^ 0x80000000).to(tl.int32, bitcast=True)
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _sum_above(source, peak, cut, GUIDED: tl.constexpr, BLOCK: tl.constexpr, CHUNKS: tl.constexpr):
    """The unnormalised probability of the tokens that are not below the cut."""
    total = 0.0
    for chunk in range(CHUNKS):
        score = scores(source, chunk * BLOCK + tl.arange(0, BLOCK), GUIDED)
        total += tl.sum(tl.where(score < cut, 0.0, tl.exp(score - peak)))
    return total


@triton.jit
def _largest_cut(
    source,
    peak,
    above,
    target,
    BY_MASS: tl.constexpr,
    GUIDED: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    """The largest score such that the tokens from it upwards reach a target.

    The target is a number of tokens or, BY_MASS, an unnormalised probability of tokens not below
    `above`. The bits of the score are found from the highest down, so the result is exact.
    """
    score = scores(source, tl.arange(0, BLOCK), GUIDED)
    found = tl.full((), 0, tl.uint32)
    bit = tl.full((), 0x80000000, tl.uint32)
    for _ in range(32):
        candidate = found | bit
        reached = 0.0
        for chunk in range(CHUNKS):
            if CHUNKS > 1:  # one chunk stays in registers
                score = scores(source, chunk * BLOCK + tl.arange(0, BLOCK), GUIDED)
            weight = tl.full((BLOCK,), 1.0, tl.float32)
            if BY_MASS:
                weight = tl.where(score < above, 0.0, tl.exp(score - peak))
            reached += tl.sum(tl.where(_rank(score) >= candidate, weight, 0.0))
        found = tl.where(reached >= target, candidate, found)
        bit = bit >> 1
    return _score_of_rank(found)


@triton.jit
def stats_of(
    source,
    top_p,
    TOP_K: tl.constexpr,
    TOP_P: tl.constexpr,
    GUIDED: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    """The softmax of what top-k and then top-p leave."""
    peak = -float("inf")
    for chunk in range(CHUNKS):
        score = scores(source, chunk * BLOCK + tl.arange(0, BLOCK), GUIDED)
        peak = tl.maximum(peak, tl.max(score, axis=0))
    cut = -float("inf")
    if TOP_K > 0:
        cut = _largest_cut(source, peak, cut, TOP_K * 1.0, False, GUIDED, BLOCK, CHUNKS)
    total = _sum_above(source, peak, cut, GUIDED, BLOCK, CHUNKS)
    if TOP_P:
        cut = _largest_cut(source, peak, cut, top_p * total, True, GUIDED, BLOCK, CHUNKS)
        total = _sum_above(source, peak, cut, GUIDED, BLOCK, CHUNKS)
    log_sum = tl.log(total)
    # One NaN makes all probabilities NaN, as in torch: no score is below a cut of NaN.
    return peak, log_sum, tl.where(log_sum == log_sum, cut, log_sum)


@triton.jit
def _best(score, first, best, token):
    """The running maximum and its token; ties go to the lower token, and NaN wins, as in torch."""
    score = tl.where(score == score, score, float("inf"))
    top, index = tl.max(score, axis=0, return_indices=True, return_indices_tie_break_left=True)
    is_better = top > best
    return tl.where(is_better, top, best), tl.where(is_better, first + index, token)


@triton.jit
def pick(
    source,
    stats,
    seed,
    position,
    NOISY: tl.constexpr,
    GUIDED: tl.constexpr,
    RACE: tl.constexpr,
    RACES: tl.constexpr,
):
    """The token that same-seed noise picks, or without noise the likeliest one."""
    best, token = -float("inf"), 0
    for chunk in range(RACES):
        first = chunk * RACE
        clock = log_probabilities(scores(source, first + tl.arange(0, RACE), GUIDED), stats)
        if NOISY:
            # It depends on the position of a column, not on the iteration.
            clock += philox.gumbel(seed, first, position, position * 0, _DRAFT, RACE)
        best, token = _best(clock, first, best, token)
    return token


@triton.jit
def _group_noise(seed, first, position, iteration, STREAM: tl.constexpr, RACE: tl.constexpr):
    """Noise of the groups of the tokens first, ..., first + RACE - 1."""
    group = _GROUPS_FROM + first // _GROUP
    return philox.gumbel(seed, group, position, iteration, STREAM, RACE // _GROUP)


@triton.jit
def _best_group(weights, noise, first, best, group, RACE: tl.constexpr):
    """The running maximum of a race between groups, and its group."""
    sums = tl.sum(tl.reshape(weights, (RACE // _GROUP, _GROUP)), axis=1)
    return _best(tl.log(sums) + noise, first // _GROUP, best, group)


@triton.jit
def draw(
    source,
    stats,
    seed,
    position,
    iteration,
    GUIDED: tl.constexpr,
    RACE: tl.constexpr,
    RACES: tl.constexpr,
):
    """Draw a token: groups race with their sums, then the tokens of the winner."""
    best, group = -float("inf"), 0
    for chunk in range(RACES):
        first = chunk * RACE
        log_p = log_probabilities(scores(source, first + tl.arange(0, RACE), GUIDED), stats)
        noise = _group_noise(seed, first, position, iteration, _DRAFT, RACE)
        best, group = _best_group(tl.exp(log_p), noise, first, best, group, RACE)
    first = group * _GROUP
    log_p = log_probabilities(scores(source, first + tl.arange(0, _GROUP), GUIDED), stats)
    clock = log_p + philox.gumbel(seed, first, position, iteration, _DRAFT, _GROUP)
    _, token = _best(clock, first, -float("inf"), first)
    return token


@triton.jit
def draft_log_probabilities(drafted, tokens, GUIDED: tl.constexpr):
    """`log q` of some tokens."""
    draft, is_full, source, stats, is_uniform, log_uniform = drafted
    if is_full:
        log_q = log_probabilities(scores(source, tokens, GUIDED), stats)
    elif is_uniform:
        log_q = tokens * 0.0 + log_uniform
    else:
        log_q = tl.where(tokens == draft, 0.0, -float("inf"))
    return log_q


@triton.jit
def _residual(source, stats, drafted, tokens, GUIDED: tl.constexpr, DRAFT_GUIDED: tl.constexpr):
    """`p` and `max(p - q, 0)` of some tokens."""
    p = tl.exp(log_probabilities(scores(source, tokens, GUIDED), stats))
    left = p - tl.exp(draft_log_probabilities(drafted, tokens, DRAFT_GUIDED))
    return p, tl.where(left <= 0, 0.0, left)  # a NaN stays one


@triton.jit
def recover(
    source,
    stats,
    drafted,
    seed,
    position,
    iteration,
    GUIDED: tl.constexpr,
    DRAFT_GUIDED: tl.constexpr,
    RACE: tl.constexpr,
    RACES: tl.constexpr,
):
    """Draw a token from the residual `max(p - q, 0)`; from `p` where rounding makes it zero."""
    best, group = -float("inf"), 0
    best_of_p, group_of_p = -float("inf"), 0
    for chunk in range(RACES):
        first = chunk * RACE
        tokens = first + tl.arange(0, RACE)
        p, left = _residual(source, stats, drafted, tokens, GUIDED, DRAFT_GUIDED)
        noise = _group_noise(seed, first, position, iteration, _RESIDUAL, RACE)
        best, group = _best_group(left, noise, first, best, group, RACE)
        best_of_p, group_of_p = _best_group(p, noise, first, best_of_p, group_of_p, RACE)
    nothing_left = best == -float("inf")
    first = tl.where(nothing_left, group_of_p, group) * _GROUP
    tokens = first + tl.arange(0, _GROUP)
    p, left = _residual(source, stats, drafted, tokens, GUIDED, DRAFT_GUIDED)
    noise = philox.gumbel(seed, first, position, iteration, _RESIDUAL, _GROUP)
    clock = tl.log(tl.where(nothing_left, p, left)) + noise
    _, token = _best(clock, first, -float("inf"), first)
    return token
