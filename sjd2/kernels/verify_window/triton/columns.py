"""The first launch of `verify_window`: one program decides one column from its `p` and its `q`."""

import triton
import triton.language as tl

from sjd2.kernels.philox import Stream
from sjd2.kernels.philox import triton as philox
from sjd2.kernels.target.triton import (
    draft_log_probabilities,
    draw,
    log_probabilities,
    pick,
    recover,
    scores,
    stats_of,
)
from sjd2.kernels.types import DraftKind

MODES = {"maximal": 0, "independent": 1, "gumbel": 2, "greedy": 3}

_INDEPENDENT = tl.constexpr(MODES["independent"])
_GUMBEL = tl.constexpr(MODES["gumbel"])
_FULL = tl.constexpr(int(DraftKind.FULL))
_UNIFORM = tl.constexpr(int(DraftKind.UNIFORM))
_ACCEPT = tl.constexpr(int(Stream.ACCEPT))

# Numbers per column that turn its logits into log-probabilities.
STATS = tl.constexpr(3)


@triton.jit
def load_stats(stats, mask=None):
    """The numbers that `stats_of` computed for a column."""
    return tl.load(stats, mask), tl.load(stats + 1, mask), tl.load(stats + 2, mask)


@triton.jit
def forced_at(grammar, at, grammar_length):
    """The tokens that the grammar forces at some picture positions, -1 where they are free."""
    return tl.load(grammar + at, mask=at < grammar_length, other=-1)


@triton.jit(do_not_specialize=["iteration"])
def columns_kernel(
    logits,
    draft_logits,
    draft_width,
    draft_stats,
    slots,
    slots_row,
    kinds,
    kinds_row,
    offset,
    seed,
    position,
    grammar,
    grammar_length,
    kept_out,
    token_out,
    token_row,
    redrawn_out,
    stats_out,
    iteration,
    begun,
    vocab,
    log_uniform,
    guidance,
    cooling,
    draft_cooling,
    top_p,
    MODE: tl.constexpr,
    GUIDED: tl.constexpr,
    DRAFT_GUIDED: tl.constexpr,
    TOP_K: tl.constexpr,
    TOP_P: tl.constexpr,
    HAS_GRAMMAR: tl.constexpr,
    HAS_BEGUN: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNKS: tl.constexpr,
    RACE: tl.constexpr,
    RACES: tl.constexpr,
):
    """Whether the draft of a column is kept, and the column's token."""
    column, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    width, images = tl.num_programs(0), tl.num_programs(1).to(tl.int64)
    entry = image * width + column
    at = tl.load(position + image).to(tl.int32) + column
    draft = tl.load(slots + image * slots_row + column + 1).to(tl.int32)
    if HAS_BEGUN:
        iteration -= tl.load(begun + image).to(tl.int32)
    forced = -1
    if HAS_GRAMMAR:
        forced = forced_at(grammar, at, grammar_length).to(tl.int32)
    if forced >= 0:
        tl.store(kept_out + entry, (draft == forced).to(tl.int8))
        tl.store(token_out + image * token_row + column, forced)
        tl.store(redrawn_out + entry, forced)
    else:
        key = tl.load(seed + image)
        row = logits + entry * vocab
        source = (row, row + images * width * vocab, vocab, guidance, cooling)
        p = stats_of(source, top_p, TOP_K, TOP_P, GUIDED, BLOCK, CHUNKS)
        redrawn = draft
        if MODE >= _GUMBEL:
            token = pick(source, p, key, at, MODE == _GUMBEL, GUIDED, RACE, RACES)
            kept = token == draft
        else:
            if MODE == _INDEPENDENT:
                redrawn = draw(source, p, key, at, iteration, GUIDED, RACE, RACES)
            is_full = tl.load(kinds + image * kinds_row + column) == _FULL
            is_uniform = tl.load(kinds + image * kinds_row + column) == _UNIFORM
            stored = tl.minimum(column + tl.load(offset + image), draft_width - 1)
            old_entry = image * draft_width + stored
            old_row = draft_logits + old_entry * vocab
            old_twin = old_row + images * draft_width * vocab
            old_source = (old_row, old_twin, vocab, guidance, draft_cooling)
            # There may be none where no kind is FULL.
            q = load_stats(draft_stats + old_entry * STATS, is_full)
            drafted = (draft, is_full, old_source, q, is_uniform, log_uniform)
            log_q = draft_log_probabilities(drafted, draft, DRAFT_GUIDED)
            u, _ = philox.pair(key, at * 0, at, iteration, _ACCEPT)
            log_p = log_probabilities(scores(source, draft, GUIDED), p)
            kept = tl.log(u) < log_p - log_q
            token = draft
            if not kept:
                token = recover(
                    source, p, drafted, key, at, iteration, GUIDED, DRAFT_GUIDED, RACE, RACES
                )
        stats = stats_out + entry * STATS
        peak, log_sum, cut = p
        tl.store(stats, peak)
        tl.store(stats + 1, log_sum)
        tl.store(stats + 2, cut)
        tl.store(kept_out + entry, kept.to(tl.int8))
        tl.store(token_out + image * token_row + column, token)
        tl.store(redrawn_out + entry, redrawn)
