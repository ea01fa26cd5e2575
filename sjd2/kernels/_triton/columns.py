"""The first launch of `verify_window`: one program for every column, and every one that may enter.

A column is decided from its own two laws alone, and which columns enter is not known before all
are decided; so a draft is drawn for each that might.
"""

import triton
import triton.language as tl

from sjd2.kernels._philox import Stream
from sjd2.kernels._triton import philox
from sjd2.kernels._triton.law import draw, law_of, log_probabilities, recover, scores
from sjd2.kernels.types import DraftKind

MODES = {"maximal": 0, "independent": 1, "gumbel": 2, "greedy": 3}

_INDEPENDENT = tl.constexpr(MODES["independent"])
_GUMBEL = tl.constexpr(MODES["gumbel"])
_GREEDY = tl.constexpr(MODES["greedy"])
_FULL = tl.constexpr(int(DraftKind.FULL))
_UNIFORM = tl.constexpr(int(DraftKind.UNIFORM))
_ACCEPT = tl.constexpr(int(Stream.ACCEPT))

# Per column: what makes a law of its logits.
STATS = tl.constexpr(3)


@triton.jit
def _load_law(stats):
    """The numbers that `law_of` found for a column once."""
    return tl.load(stats), tl.load(stats + 1), tl.load(stats + 2)


@triton.jit(do_not_specialize=["iteration"])
def columns_kernel(
    logits,
    law,
    law_width,
    law_stats,
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
    redrawn_out,
    entering_out,
    stats_out,
    iteration,
    width,
    vocab,
    log_uniform,
    guidance,
    cooling,
    top_p,
    MODE: tl.constexpr,
    GUIDED: tl.constexpr,
    TOP_K: tl.constexpr,
    TOP_P: tl.constexpr,
    HAS_GRAMMAR: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNKS: tl.constexpr,
    RACE: tl.constexpr,
    RACES: tl.constexpr,
):
    """Programs below `width` decide a column, those from there on draw what may enter behind."""
    column, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    images = tl.num_programs(1).to(tl.int64)
    enters = column >= width
    # What enters is drawn from the law of the last column, under an address of its own.
    entry = image * width + tl.minimum(column, width - 1)
    start = tl.load(position + image).to(tl.int32)
    at = start + column
    forced = -1
    if HAS_GRAMMAR:
        where = start + tl.minimum(column, width - 1)
        forced = tl.load(grammar + where, mask=where < grammar_length, other=-1).to(tl.int32)
    key = tl.load(seed + image)
    row = logits + entry * vocab
    source = (row, row + images * width * vocab, vocab, guidance, cooling)
    if enters:
        token = forced
        if forced < 0:
            p = law_of(source, top_p, TOP_K, TOP_P, GUIDED, BLOCK, CHUNKS)
            # Same-seed noise depends on where a column stands, not on when it is drawn.
            when = iteration
            if MODE == _GUMBEL:
                when = at * 0
            token = draw(source, p, key, at, when, MODE != _GREEDY, GUIDED, RACE, RACES)
        entering = tl.num_programs(0) - width
        tl.store(entering_out + image * entering + column - width, token)
    else:
        draft = tl.load(slots + image * slots_row + column + 1).to(tl.int32)
        if forced >= 0:
            tl.store(kept_out + entry, (draft == forced).to(tl.int8))
            tl.store(token_out + entry, forced)
            tl.store(redrawn_out + entry, forced)
        else:
            p = law_of(source, top_p, TOP_K, TOP_P, GUIDED, BLOCK, CHUNKS)
            redrawn = draft
            if MODE >= _GUMBEL:
                token = draw(source, p, key, at, at * 0, MODE == _GUMBEL, GUIDED, RACE, RACES)
                kept = token == draft
            else:
                is_full = tl.load(kinds + image * kinds_row + column) == _FULL
                is_uniform = tl.load(kinds + image * kinds_row + column) == _UNIFORM
                stored = tl.minimum(column + tl.load(offset + image), law_width - 1)
                old_entry = image * law_width + stored
                old_row = law + old_entry * vocab
                old_twin = old_row + images * law_width * vocab
                old_source = (old_row, old_twin, vocab, guidance, cooling)
                q = (0.0, 0.0, 0.0)
                log_q = 0.0
                if is_full:
                    q = _load_law(law_stats + old_entry * STATS)
                    log_q = log_probabilities(scores(old_source, draft, GUIDED), q)
                elif is_uniform:
                    log_q = log_uniform
                u, _ = philox.pair(key, at * 0, at, iteration, _ACCEPT)
                log_p = log_probabilities(scores(source, draft, GUIDED), p)
                kept = tl.log(u) < log_p - log_q
                token = draft
                if not kept:
                    token = recover(
                        source,
                        p,
                        old_source,
                        q,
                        log_uniform,
                        draft,
                        is_full,
                        is_uniform,
                        key,
                        at,
                        iteration,
                        GUIDED,
                        RACE,
                        RACES,
                    )
                if MODE == _INDEPENDENT:
                    redrawn = draw(source, p, key, at, iteration, True, GUIDED, RACE, RACES)
            stats = stats_out + entry * STATS
            peak, log_sum, cut = p
            tl.store(stats, peak)
            tl.store(stats + 1, log_sum)
            tl.store(stats + 2, cut)
            tl.store(kept_out + entry, kept.to(tl.int8))
            tl.store(token_out + entry, token)
            tl.store(redrawn_out + entry, redrawn)
