"""The second launch of `verify_window`: the accepted run of every row, and its next window.

Program 0 of a row counts the run and slides the window. The others draw one entering token each
from the distribution of the last column; those that are not needed return at once.
"""

import triton
import triton.language as tl

from sjd2.kernels.philox import Stream
from sjd2.kernels.philox import triton as philox
from sjd2.kernels.target.triton import draw, pick
from sjd2.kernels.types import DraftKind
from sjd2.kernels.verify_window.triton.columns import MODES, STATS, forced_at, load_stats

STARTS = {"uniform": 0, "repeat": 1, "neighbour": 2}

_INDEPENDENT = tl.constexpr(MODES["independent"])
_GUMBEL = tl.constexpr(MODES["gumbel"])
_REPEAT = tl.constexpr(STARTS["repeat"])
NEIGHBOUR = tl.constexpr(STARTS["neighbour"])
_FULL = tl.constexpr(int(DraftKind.FULL))
_UNIFORM = tl.constexpr(int(DraftKind.UNIFORM))
_ONEHOT = tl.constexpr(int(DraftKind.ONEHOT))
_DRAFT = tl.constexpr(int(Stream.DRAFT))


@triton.jit
def _tokens_at(columns, run, token_in, redrawn_in, mask, MODE: tl.constexpr):
    """The tokens of some columns after the decision."""
    tokens = tl.load(token_in + columns, mask=mask, other=0)
    if MODE == _INDEPENDENT:
        # SJD: behind the accepted run every column is drawn again, whatever its draft was worth.
        redrawn = tl.load(redrawn_in + columns, mask=mask, other=0)
        tokens = tl.where(columns > run, redrawn, tokens)
    return tokens


@triton.jit(do_not_specialize=["iteration"])
def rows_kernel(
    logits,
    stats,
    kept_in,
    token_in,
    redrawn_in,
    slots,
    slots_row,
    noisy,
    noisy_row,
    seed,
    position,
    grammar,
    grammar_length,
    accept_length_out,
    accepted_out,
    tokens_out,
    slots_out,
    kinds_out,
    iteration,
    begun,
    length,
    vocab,
    width,
    next_width,
    guidance,
    cooling,
    MODE: tl.constexpr,
    START: tl.constexpr,
    GUIDED: tl.constexpr,
    HAS_GRAMMAR: tl.constexpr,
    HAS_BEGUN: tl.constexpr,
    HAS_NOISE: tl.constexpr,
    COLUMNS: tl.constexpr,
    RACE: tl.constexpr,
    RACES: tl.constexpr,
):
    """Count the accepted run; then slide the window, or draw one of the columns that enter it."""
    program, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    images = tl.num_programs(1).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    inside = columns < width
    entry = image * width
    kept = tl.load(kept_in + entry + columns, mask=inside, other=0)
    run = tl.min(tl.where(kept == 0, columns, width), axis=0)
    run = tl.minimum(run, width)
    at = tl.load(position + image)
    committable = tl.minimum(tl.maximum(length - at, 0), width)
    if HAS_NOISE:
        fed_noise = tl.load(noisy + image * noisy_row + columns, mask=inside, other=0)
        clean = tl.min(tl.where(fed_noise != 0, columns, width), axis=0)
        committable = tl.minimum(committable, clean)
    accept_length = tl.minimum(run + 1, committable)
    slots_out += image * (next_width + 1)
    key = tl.load(seed + image)
    if HAS_BEGUN:
        iteration -= tl.load(begun + image).to(tl.int32)
    end = width - 1

    if program > 0:
        if START == NEIGHBOUR:  # the only launch with such programs
            there = at + end + program
            column = end + program - accept_length
            if column < next_width:
                token = -1
                if HAS_GRAMMAR:
                    token = forced_at(grammar, there, grammar_length).to(tl.int32)
                    if token < 0:
                        token = forced_at(grammar, at + end, grammar_length).to(tl.int32)
                if token < 0:
                    row = logits + (entry + end) * vocab
                    source = (row, row + images * width * vocab, vocab, guidance, cooling)
                    p = load_stats(stats + (entry + end) * STATS)
                    where = there.to(tl.int32)
                    if MODE >= _GUMBEL:
                        token = pick(source, p, key, where, MODE == _GUMBEL, GUIDED, RACE, RACES)
                    else:
                        token = draw(source, p, key, where, iteration, GUIDED, RACE, RACES)
                tl.store(slots_out + 1 + column, token)
    else:
        tl.store(accept_length_out + image, accept_length)
        tl.store(accepted_out + image, tl.minimum(run, committable))
        token_in += entry
        redrawn_in += entry
        tokens = _tokens_at(columns, run, token_in, redrawn_in, inside, MODE)
        tl.store(tokens_out + entry + columns, tokens, mask=inside)

        # The last committed token becomes slot 0; a row that commits nothing keeps its own.
        newest = tl.maximum(accept_length - 1, 0)
        last = _tokens_at(newest, run, token_in, redrawn_in, newest < width, MODE)
        if accept_length == 0:
            last = tl.load(slots + image * slots_row)
        tl.store(slots_out, last)

        inside = columns < next_width
        source = columns + accept_length
        is_new = source > end
        drafts = _tokens_at(tl.minimum(source, end), run, token_in, redrawn_in, inside, MODE)
        entering, written = _ONEHOT, inside
        if START == NEIGHBOUR:
            written = inside & (source <= end)
            entering = _FULL
            if HAS_GRAMMAR:
                # A forced token has probability one, which no logits express.
                beside = forced_at(grammar, at + end, grammar_length)
                entering = tl.where(beside >= 0, _ONEHOT, _FULL)
        elif START != _REPEAT:
            when = iteration
            if MODE == _GUMBEL:
                when = iteration * 0  # same-seed noise is the same in all iterations
            bits = philox.word(key, (at + source).to(tl.int32), when, _DRAFT)
            fresh = ((bits * vocab.to(tl.uint64)) >> 32).to(tl.int64)
            drafts = tl.where(is_new, fresh, drafts)
            entering = _UNIFORM
        kinds = tl.where(is_new, entering, _FULL)
        if HAS_GRAMMAR:
            forced = forced_at(grammar, at + source, grammar_length)
            drafts = tl.where(forced >= 0, forced, drafts)
            kinds = tl.where(forced >= 0, _ONEHOT, kinds)
        tl.store(slots_out + 1 + columns, drafts, mask=written)
        tl.store(kinds_out + image * next_width + columns, kinds.to(tl.uint8), mask=inside)
