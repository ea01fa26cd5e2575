"""The mutations of `bench/mutations.py`: what is replaced by what, and the tests that must fail.

Names say what is wrong with the mutated code. A mutation that survives is a missing test or code
that nothing needs; where it is neither, `explanation` says why.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutation(NamedTuple):
    """One thing wrong with the code."""

    name: str
    file: str
    old: str  # occurs once in the file
    new: str
    tests: tuple[str, ...]  # pytest's names of tests of which one has to fail
    explanation: str = ""  # why it may survive


KERNELS = "sjd2/kernels"
PARITY = "tests/kernels/test_triton_parity.py::test_"
ENUMERATION = "tests/kernels/test_verify_window_enumeration.py::test_"
PHILOX = "tests/kernels/test_philox.py::test_"
DRAWS = "tests/kernels/test_draws.py::test_"
CORRECT = "tests/kernels/test_correct_window.py::test_"
CORRECTION = "tests/sampler/test_correction.py::test_"
ADDRESSES = "tests/sampler/test_addresses.py::test_"
CORRECTED = "tests/kernels/test_correction_enumeration.py::test_"
FORWARDS = "tests/sampler/test_forwards.py::test_"
STATE = "tests/sampler/test_state.py::test_"
CACHE = "tests/sampler/test_cache.py::test_"
QUEUE = "tests/sampler/test_queue.py::test_"
DENOISING = "tests/sampler/test_denoising.py::test_"
DISTRIBUTION = "tests/sampler/test_decode_distribution.py::test_"
PACKING = "tests/finetune/test_packing.py::test_"
LEARNED = "tests/finetune/test_corrector.py::test_"
JANUS = "tests/models/test_janus_generate.py::test_"
FAMILIES = "tests/models/test_families.py::test_"

# The three of issue 24: one is a bias, two cost only speed.
NAMED = (
    Mutation(
        "every correction pass with the same random numbers",
        "sjd2/sampler/correction.py",
        "correction=correction,",
        "correction=1,",
        (ADDRESSES + "no_random_number_is_used_twice",),
    ),
    Mutation(
        "every correction pass with the same random numbers, seen in the drafts",
        "sjd2/sampler/correction.py",
        "correction=correction,",
        "correction=1,",
        (CORRECTION + "drafts_follow_the_distribution_that_they_are_labelled_with",),
    ),
    Mutation(
        "the corrector reads its neighbours one place off",
        "sjd2/companions/corrector.py",
        "offsets = torch.tensor(self.offsets, device=table.device)",
        "offsets = torch.tensor(self.offsets, device=table.device) + 1",
        (FORWARDS + "forwards_are_those_that_were_counted",),
    ),
    Mutation(
        "noise falls two levels at a time",
        "sjd2/sampler/noise.py",
        "(steps - 1).clamp(min=0)",
        "(steps - 2).clamp(min=0)",
        (FORWARDS + "forwards_are_those_that_were_counted",),
    ),
)

STREAMS = (
    *(
        Mutation(
            f"stream {shared} shares the numbers of stream {other}",
            f"{KERNELS}/philox/__init__.py",
            f"    {shared} = {number}\n",
            f"    {shared} = {same}\n",
            (PHILOX + "streams_are_uncorrelated",),
        )
        for shared, number, other, same in (
            ("ACCEPT", 1, "DRAFT", 0),
            ("RESIDUAL", 2, "DRAFT", 0),
            ("RESIDUAL", 2, "ACCEPT", 1),
            ("EMBED", 3, "DRAFT", 0),
            ("EMBED", 3, "ACCEPT", 1),
            ("EMBED", 3, "RESIDUAL", 2),
        )
    ),
    Mutation(
        "the criterion's number is the residual's first",
        f"{KERNELS}/verify_window/draws.py",
        "self._when(positions), Stream.ACCEPT).squeeze(-1)",
        "self._when(positions), Stream.RESIDUAL).squeeze(-1)",
        (ADDRESSES + "no_random_number_is_used_twice",),
    ),
    Mutation(
        "a residual is drawn from the stream of drafts",
        f"{KERNELS}/verify_window/eager.py",
        "draws.choose(residual, rows, cols, Stream.RESIDUAL)",
        "draws.choose(residual, rows, cols, Stream.DRAFT)",
        (PARITY + "verify_window_decides_as_its_twin",),
    ),
    Mutation(
        "the kernel's residual is drawn from the stream of drafts",
        f"{KERNELS}/target/triton.py",
        "_RESIDUAL = tl.constexpr(int(Stream.RESIDUAL))",
        "_RESIDUAL = tl.constexpr(int(Stream.DRAFT))",
        (PARITY + "verify_window_decides_as_its_twin",),
    ),
    Mutation(
        "the kernel's criterion draws from the stream of residuals",
        f"{KERNELS}/verify_window/triton/columns.py",
        "_ACCEPT = tl.constexpr(int(Stream.ACCEPT))",
        "_ACCEPT = tl.constexpr(int(Stream.RESIDUAL))",
        (PARITY + "verify_window_decides_as_its_twin",),
    ),
    Mutation(
        "entering drafts draw from the stream of the criterion",
        f"{KERNELS}/verify_window/eager.py",
        "rows, source[rows, columns], Stream.DRAFT)",
        "rows, source[rows, columns], Stream.ACCEPT)",
        (PARITY + "verify_window_decides_as_its_twin",),
    ),
    Mutation(
        "noise of embeddings is same-seed noise of tokens",
        f"{KERNELS}/noisy_embed/eager.py",
        "0, Stream.EMBED, 2 * pairs)",
        "0, Stream.DRAFT, 2 * pairs)",
        (PARITY + "noisy_embed_is_its_twin",),
    ),
    Mutation(
        "groups race with the numbers of tokens",
        f"{KERNELS}/philox/__init__.py",
        "GROUPS_FROM = 2**30",
        "GROUPS_FROM = 0",
        (DRAWS + "a_group_and_its_tokens_race_independently",),
    ),
    Mutation(
        "a correction draws the numbers of a later forward",
        f"{KERNELS}/correct_window/eager.py",
        "iteration + CORRECTIONS * correction, begun)",
        "iteration + correction, begun)",
        (ADDRESSES + "no_random_number_is_used_twice",),
    ),
    Mutation(
        "a correction draws the numbers of its forward",
        f"{KERNELS}/correct_window/eager.py",
        "iteration + CORRECTIONS * correction, begun)",
        "iteration, begun)",
        (ADDRESSES + "no_random_number_is_used_twice",),
    ),
    Mutation(
        "corrections are numbered among forwards",
        f"{KERNELS}/types.py",
        "CORRECTIONS = 2**20",
        "CORRECTIONS = 2",
        (ADDRESSES + "no_random_number_is_used_twice",),
    ),
    Mutation(
        "the kernel's corrections draw the numbers of a later forward",
        f"{KERNELS}/correct_window/triton/__init__.py",
        "iteration=iteration + CORRECTIONS * correction,",
        "iteration=iteration + correction,",
        (CORRECT + "corrections_are_those_of_the_twin",),
    ),
    Mutation(
        "every forward with the same random numbers",
        "sjd2/sampler/state.py",
        '"iteration": self.iteration,',
        '"iteration": 1,',
        (ADDRESSES + "no_random_number_is_used_twice",),
    ),
    Mutation(
        "every forward with the same random numbers, seen in the pictures",
        "sjd2/sampler/state.py",
        '"iteration": self.iteration,',
        '"iteration": 1,',
        (DISTRIBUTION + "pictures_follow_the_target_distribution",),
    ),
    Mutation(
        "a row in a queue counts the forwards of the batch",
        f"{KERNELS}/verify_window/draws.py",
        "iteration if begun is None else iteration - begun",
        "iteration",
        ("tests/kernels/test_begun.py",),
    ),
    Mutation(
        "the kernel's rows count the forwards of the batch",
        f"{KERNELS}/verify_window/triton/rows.py",
        "        iteration -= tl.load(begun + image).to(tl.int32)\n",
        "        iteration -= 0\n",
        ("tests/kernels/test_begun.py",),
    ),
    Mutation(
        "philox: the iteration is no part of the address",
        f"{KERNELS}/philox/cpu.py",
        "        even[1] = iteration\n",
        "        even[1] = 0\n",
        (PHILOX + "every_part_of_the_address_changes_the_draw",),
    ),
    Mutation(
        "philox: a seed is cut to 32 bits",
        f"{KERNELS}/philox/cpu.py",
        "keys[part] >> half))",
        "keys[part] & mask))",
        (PHILOX + "every_part_of_the_address_changes_the_draw",),
    ),
    Mutation(
        "philox: the position is no part of the address",
        f"{KERNELS}/philox/cpu.py",
        "odd[0], odd[1] = positions, stream",
        "odd[0], odd[1] = 0, stream",
        (PHILOX + "every_part_of_the_address_changes_the_draw",),
    ),
    Mutation(
        "philox: chunks of addresses share the first chunk's keys",
        f"{KERNELS}/philox/cpu.py",
        "key = np.stack((keys[part] & mask, keys[part] >> half))",
        "key = np.stack((keys[: len(keys[part])] & mask, keys[: len(keys[part])] >> half))",
        (PHILOX + "numpy_gives_the_words_of_torch",),
    ),
    Mutation(
        "philox: nine rounds",
        f"{KERNELS}/philox/constants.py",
        "ROUNDS = 10",
        "ROUNDS = 9",
        (PHILOX + "philox_gives_the_published_known_answers",),
    ),
    Mutation(
        "philox: remembered noise of another stream",
        f"{KERNELS}/philox/cpu.py",
        "(int(stream), vocab_size, *address)",
        "(0, vocab_size, *address)",
        (PHILOX + "fixed_noise_is_the_same_in_every_call",),
    ),
    Mutation(
        "philox: remembered noise of another vocabulary",
        f"{KERNELS}/philox/cpu.py",
        "(int(stream), vocab_size, *address)",
        "(int(stream), 0, *address)",
        (PHILOX + "fixed_noise_is_the_same_in_every_call",),
    ),
    Mutation(
        "philox: the largest uniform is one",
        f"{KERNELS}/philox/__init__.py",
        "return value.clamp_(max=_BELOW_ONE)",
        "return value",
        (PHILOX + "every_token_has_its_own_words",),
    ),
    Mutation(
        "philox: the kernel's uniform has 32 bits",
        f"{KERNELS}/philox/triton.py",
        "    value += (low.to(tl.float32) + 0.5) * 5.421010862427522e-20",
        "    value += 0.5 * 2.3283064365386963e-10",
        (PARITY + "verify_window_decides_as_its_twin", PARITY + "noisy_embed_is_its_twin"),
    ),
    Mutation(
        "seeds of a batch are all the first one's",
        "sjd2/sampler/state.py",
        "self.seed = torch.tensor(seeds, dtype=torch.int64, device=device)",
        "self.seed = torch.tensor(seeds[:1] * images, dtype=torch.int64, device=device)",
        (DISTRIBUTION + "a_row_alone_equals_the_row_in_a_batch",),
    ),
)

EAGER = (
    Mutation(
        "the draft behind the accepted run is committed, too",
        f"{KERNELS}/verify_window/eager.py",
        "accept_length = torch.minimum(run + 1, committable)",
        "accept_length = torch.minimum(run + 2, committable)",
        (ENUMERATION + "decide_is_lossless",),
    ),
    Mutation(
        "a column is committed behind noise",
        f"{KERNELS}/verify_window/eager.py",
        "clean = (~noisy).long().cumprod(dim=1).sum(dim=1)",
        "clean = (~noisy).long().cumprod(dim=1).sum(dim=1) + 1",
        (ENUMERATION + "decide_is_lossless_with_noisy_drafts",),
    ),
    Mutation(
        "a rejected draft is drawn again from p",
        f"{KERNELS}/verify_window/eager.py",
        "residual = (p - exp(log_q)).clamp_(min=0)",
        "residual = p.clone()",
        (ENUMERATION + "decide_is_lossless",),
    ),
    Mutation(
        "an exhausted residual draws token zero",
        f"{KERNELS}/verify_window/eager.py",
        "return torch.where(exhausted, p, residual)",
        "return residual",
        (DRAWS + "where_rounding_leaves_no_residual_the_target_is_drawn_from",),
    ),
    Mutation(
        "q is read one column off",
        f"{KERNELS}/verify_window/eager.py",
        "return (columns + window.offset[:, None]).clamp_(",
        "return (columns + window.offset[:, None] - 1).clamp_(0, ",
        (ENUMERATION + "decide_is_lossless",),
    ),
    Mutation(
        "a uniform draft is verified as a certain one",
        f"{KERNELS}/verify_window/eager.py",
        "known = torch.where(kinds == DraftKind.UNIFORM, uniform, 0.0)",
        "known = torch.zeros_like(full)",
        (ENUMERATION + "decide_is_lossless",),
    ),
    Mutation(
        "the residual of a one-hot draft is that of a uniform one",
        f"{KERNELS}/verify_window/eager.py",
        "known = torch.where(kinds == DraftKind.UNIFORM, uniform, one_hot)",
        "known = uniform",
        (ENUMERATION + "decide_is_lossless",),
    ),
    Mutation(
        "independent: columns behind the run keep their drafts",
        f"{KERNELS}/verify_window/eager.py",
        "behind, rejected = columns > run, columns == run",
        "behind, rejected = columns > run + 1, columns == run",
        (ENUMERATION + "decide_is_lossless",),
    ),
    Mutation(
        "a forced token is not forced in the next window",
        f"{KERNELS}/verify_window/eager.py",
        "(slots, kinds, log_p, accept_length), position + accept_length, grammar)",
        "(slots, kinds, log_p, accept_length), position, grammar)",
        (PARITY + "forced_columns_are_those_of_the_twin",),
    ),
    Mutation(
        "a newcomer beside a forced token has a stored distribution",
        f"{KERNELS}/verify_window/eager.py",
        "kinds = kinds.masked_fill(beside & is_new, int(DraftKind.ONEHOT))",
        "pass",
        (PARITY + "forced_columns_are_those_of_the_twin",),
    ),
    Mutation(
        "slot 0 of a row that commits nothing is another token",
        f"{KERNELS}/verify_window/eager.py",
        "return torch.where(accept_length > 0, newest, last)",
        "return newest",
        (PARITY + "finished_rows_commit_nothing",),
    ),
    Mutation(
        "same-seed draws change with the iteration",
        f"{KERNELS}/verify_window/eager.py",
        "        iteration, begun = 0, None\n",
        "        pass\n",
        (PARITY + "verify_window_decides_as_its_twin",),
    ),
    Mutation(
        "guidance rows exchanged",
        f"{KERNELS}/target/eager.py",
        "conditional, unconditional = logits.chunk(2)",
        "unconditional, conditional = logits.chunk(2)",
        (PARITY + "guidance_and_filters_are_those_of_the_twin",),
    ),
    Mutation(
        "top-k keeps one token more",
        f"{KERNELS}/target/eager.py",
        "return drop_below(logits, kth_largest(logits, k))",
        "return drop_below(logits, kth_largest(logits, k + 1))",
        (PARITY + "guidance_and_filters_are_those_of_the_twin",),
    ),
    Mutation(
        "top-p leaves out the token that reaches the mass",
        f"{KERNELS}/target/eager.py",
        ".sub(1).clamp(min=0)",
        ".sub(2).clamp(min=0)",
        (PARITY + "guidance_and_filters_are_those_of_the_twin",),
    ),
    Mutation(
        "temperature multiplies",
        f"{KERNELS}/target/eager.py",
        "logits = logits * (1 / rules.temperature)",
        "logits = logits * rules.temperature",
        (PARITY + "guidance_and_filters_are_those_of_the_twin",),
    ),
    Mutation(
        "a corrected draft is told the distribution of the forward",
        f"{KERNELS}/correct_window/eager.py",
        "return force(Window(slots, kinds, log_q, torch.zeros_like(position)), position, grammar)",
        "return force(Window(slots, kinds, scored.draft_logits, scored.offset), position, grammar)",
        (CORRECTED + "corrected_windows_are_verified_without_bias",),
    ),
    Mutation(
        "a draft that a pass has moved counts as drawn from the forward's distribution",
        f"{KERNELS}/correct_window/eager.py",
        'drafts, _ = couple(log_q, window, draws, "maximal")',
        'drafts, _ = couple(log_q, scored._replace(slots=window.slots), draws, "maximal")',
        (CORRECTED + "corrected_windows_are_verified_without_bias",),
    ),
    Mutation(
        "every pass moves the drafts that the forward left",
        f"{KERNELS}/correct_window/eager.py",
        'drafts, _ = couple(log_q, window, draws, "maximal")',
        'drafts, _ = couple(log_q, scored, draws, "maximal")',
        (CORRECT + "corrections_are_those_of_the_twin",),
    ),
    Mutation(
        "columns that entered beside a forced token are corrected",
        f"{KERNELS}/correct_window/eager.py",
        "beside = grammar_at(grammar, position - scored.offset, scored.draft_logits.shape[1])",
        "beside = grammar_at(grammar, position, scored.draft_logits.shape[1])",
        (CORRECT + "forced_tokens_are_left_alone",),
    ),
    Mutation(
        "a forced token counts as a neighbour",
        f"{KERNELS}/correct_window/eager.py",
        "known = known & free.gather(1, inside.flatten(1)).view_as(at)",
        "pass",
        (CORRECT + "forced_tokens_are_left_alone",),
    ),
    Mutation(
        "neighbours before the picture are those at its start",
        f"{KERNELS}/correct_window/eager.py",
        "known, found = at >= 0, tokens",
        "known, found = at >= -1, tokens",
        (CORRECT + "corrections_are_those_of_the_twin",),
    ),
    Mutation(
        "a shortlist corrects the first image's columns",
        f"{KERNELS}/correct_window/cpu.py",
        "column, token = listed // vocab, listed % vocab",
        "column, token = listed // vocab * 0, listed % vocab",
        (CORRECT + "a_shortlist_corrects_the_same_distribution",),
    ),
    Mutation(
        "clean slots go through the arithmetic of noise",
        f"{KERNELS}/noisy_embed/eager.py",
        "embeddings = torch.where(level > 0, noisy.to(table.dtype), embeddings)",
        "embeddings = noisy.to(table.dtype)",
        ("tests/kernels/test_noisy_embed.py",),
    ),
    Mutation(
        "noise belongs to the slot",
        f"{KERNELS}/noisy_embed/eager.py",
        "positions = position[:, None] + torch.arange(width, device=position.device)",
        "positions = 0 * position[:, None] + torch.arange(width, device=position.device)",
        ("tests/kernels/test_noisy_embed.py",),
    ),
    Mutation(
        "a denoising step towards noise",
        f"{KERNELS}/noisy_embed/eager.py",
        "mixed = kept * embeddings.float() + (1 - kept) * clean.float()",
        "mixed = (1 - kept) * embeddings.float() + kept * clean.float()",
        (PARITY + "denoise_step_is_its_twin",),
    ),
    Mutation(
        "log-probabilities of tokens without the temperature",
        f"{KERNELS}/token_log_probs.py",
        ".squeeze(-1) * (1 / rules.temperature)",
        ".squeeze(-1)",
        ("tests/sampler/test_logprobs.py::test_the_kernels_leave_the_same_numbers",),
    ),
)

# Interpreted, as `tests/conftest.py` runs them without a GPU.
TRITON = (
    Mutation(
        "triton: the last chunk of a vocabulary is left out",
        f"{KERNELS}/tiles.py",
        '"CHUNKS": triton.cdiv(vocab, block),',
        '"CHUNKS": max(1, vocab // block),',
        (PARITY + "a_large_vocabulary_is_swept_in_chunks",),
    ),
    Mutation(
        "triton: the last tile of tokens does not race",
        f"{KERNELS}/tiles.py",
        '"RACES": triton.cdiv(vocab, race),',
        '"RACES": max(1, vocab // race),',
        (PARITY + "a_large_vocabulary_is_swept_in_chunks",),
    ),
    Mutation(
        "triton: tokens outside the vocabulary take part",
        f"{KERNELS}/target/triton.py",
        'return tl.where(inside, score * cooling, -float("inf"))',
        "return score * cooling",
        (PARITY + "verify_window_decides_as_its_twin",),
    ),
    Mutation(
        "triton: unconditional rows one image off",
        f"{KERNELS}/verify_window/triton/columns.py",
        "source = (row, row + images * width * vocab, vocab, guidance, cooling)",
        "source = (row, row + (images - 1) * width * vocab, vocab, guidance, cooling)",
        (PARITY + "guidance_and_filters_are_those_of_the_twin",),
    ),
    Mutation(
        "triton: q is read one column off",
        f"{KERNELS}/verify_window/triton/columns.py",
        "stored = tl.minimum(column + tl.load(offset + image), draft_width - 1)",
        "stored = tl.minimum(column + 1 + tl.load(offset + image), draft_width - 1)",
        (PARITY + "verify_window_decides_as_its_twin",),
    ),
    Mutation(
        "triton: q of columns that entered is read behind its end",
        f"{KERNELS}/verify_window/triton/columns.py",
        "stored = tl.minimum(column + tl.load(offset + image), draft_width - 1)",
        "stored = column + tl.load(offset + image)",
        (PARITY + "verify_window_decides_as_its_twin",),
    ),
    Mutation(
        "triton: a narrow window's slots are taken for contiguous",
        f"{KERNELS}/verify_window/triton/columns.py",
        "draft = tl.load(slots + image * slots_row + column + 1).to(tl.int32)",
        "draft = tl.load(slots + image * (width + 1) + column + 1).to(tl.int32)",
        (PARITY + "strided_logits_are_read_in_place",),
    ),
    Mutation(
        "triton: a narrow window's kinds are taken for contiguous",
        f"{KERNELS}/verify_window/triton/__init__.py",
        "kinds_row=kinds.stride(0),",
        "kinds_row=width,",
        (PARITY + "strided_logits_are_read_in_place",),
    ),
    Mutation(
        "triton: strided logits are taken for contiguous",
        f"{KERNELS}/verify_window/triton/__init__.py",
        "    logits = logits.contiguous()\n",
        "",
        (PARITY + "strided_logits_are_read_in_place",),
    ),
    Mutation(
        "triton: p equal to q is rejected by chance",
        f"{KERNELS}/verify_window/triton/columns.py",
        "kept = tl.log(u) < log_p - log_q",
        "kept = tl.log(u) < log_p - log_q - 0.5",
        (PARITY + "verify_window_decides_as_its_twin",),
    ),
    Mutation(
        "triton: a residual of zero draws token zero",
        f"{KERNELS}/target/triton.py",
        'nothing_left = best == -float("inf")',
        "nothing_left = best != best",
        (PARITY + "where_nothing_is_left_of_a_residual_the_kernel_draws_as_its_twin",),
    ),
    Mutation(
        "triton: the likeliest of equals is the last",
        f"{KERNELS}/target/triton.py",
        "is_better = top > best",
        "is_better = top >= best",
        (PARITY + "ties_go_to_the_first_token_of_the_first_tile",),
    ),
    Mutation(
        "triton: top-p of all tokens, not of what top-k left",
        f"{KERNELS}/target/triton.py",
        "weight = tl.where(score < above, 0.0, tl.exp(score - peak))",
        "weight = tl.exp(score - peak)",
        (PARITY + "guidance_and_filters_are_those_of_the_twin",),
    ),
    Mutation(
        "triton: a row's noise flags are those of the first",
        f"{KERNELS}/verify_window/triton/rows.py",
        "noisy + image * noisy_row + columns",
        "noisy + columns",
        (PARITY + "noise_ends_the_chain",),
    ),
    Mutation(
        "triton: columns outside the window count as kept",
        f"{KERNELS}/verify_window/triton/rows.py",
        "kept = tl.load(kept_in + entry + columns, mask=inside, other=0)",
        "kept = tl.load(kept_in + entry + columns)",
        (PARITY + "equal_distributions_accept_everything",),
        "a column outside has the number of the width or more, so the run ends there in any case",
    ),
    Mutation(
        "triton: tokens are written outside the window",
        f"{KERNELS}/verify_window/triton/rows.py",
        "tl.store(tokens_out + entry + columns, tokens, mask=inside)",
        "tl.store(tokens_out + entry + columns, tokens)",
        (PARITY + "verify_window_decides_as_its_twin",),
    ),
    Mutation(
        "triton: entering tokens beside a forced one are drawn",
        f"{KERNELS}/verify_window/triton/rows.py",
        "entering = tl.where(beside >= 0, _ONEHOT, _FULL)",
        "entering = _FULL",
        (PARITY + "forced_columns_are_those_of_the_twin",),
    ),
    Mutation(
        "triton: the run of independent coupling is one short",
        f"{KERNELS}/verify_window/triton/rows.py",
        "tokens = tl.where(columns > run, redrawn, tokens)",
        "tokens = tl.where(columns >= run, redrawn, tokens)",
        (PARITY + "verify_window_decides_as_its_twin",),
    ),
    Mutation(
        "triton: addresses of logits in 32 bits",
        f"{KERNELS}/verify_window/triton/columns.py",
        "column, image = tl.program_id(0), tl.program_id(1).to(tl.int64)",
        "column, image = tl.program_id(0), tl.program_id(1)",
        (PARITY + "a_row_alone_is_the_row_in_a_batch",),
        "it takes a program for every column of 2^31 logits: hours of the interpreter",
    ),
    Mutation(
        "triton: addresses of the cache in 32 bits",
        f"{KERNELS}/kv_cache/triton.py",
        "head, row = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)",
        "head, row = tl.program_id(0), tl.program_id(1)",
        ("tests/kernels/test_kv_cache.py::test_a_cache_beyond_32_bits_is_written",),
    ),
    Mutation(
        "triton: values written with the size of keys",
        f"{KERNELS}/kv_cache/triton.py",
        "values + entry * value_size, width, value_size, BLOCK)",
        "values + entry * key_size, width, value_size, BLOCK)",
        (PARITY + "kv_append_is_its_twin",),
    ),
    Mutation(
        "triton: strided keys are taken for contiguous",
        f"{KERNELS}/kv_cache/triton.py",
        "key_slot=key_slot,",
        "key_slot=size,",
        (PARITY + "kv_append_is_its_twin",),
    ),
    Mutation(
        "triton: the last block of a window is not copied",
        f"{KERNELS}/kv_cache/triton.py",
        "for first in range(0, width * size, BLOCK):",
        "for first in range(0, tl.maximum(width * size - BLOCK + 1, 1), BLOCK):",
        (PARITY + "kv_append_copies_windows_of_several_blocks",),
    ),
    Mutation(
        "triton: lengths behind the last are changed",
        f"{KERNELS}/kv_cache/triton.py",
        "tl.store(lengths + row, tl.load(lengths + row, mask=inside) + accepted, mask=inside)",
        "tl.store(lengths + row, tl.load(lengths + row) + 1 + accepted * 0)",
        (PARITY + "kv_truncate_is_its_twin",),
    ),
    Mutation(
        "triton: a row is moved with the length of another",
        f"{KERNELS}/kv_cache/triton.py",
        "inside = entries < tl.load(lengths + source) * size",
        "inside = entries < tl.load(lengths + target) * size",
        (PARITY + "kv_compact_is_its_twin",),
    ),
    Mutation(
        "triton: a picture is addressed by its row in the batch",
        f"{KERNELS}/commit_window/triton.py",
        "picture = pictures + tl.load(rows + image) * picture_row + at",
        "picture = pictures + image * picture_row + at",
        (PARITY + "commit_window_is_its_twin",),
    ),
    Mutation(
        "triton: columns outside the window are committed",
        f"{KERNELS}/commit_window/triton.py",
        "tl.store(picture + columns, new, mask=inside)",
        "tl.store(picture + columns, new)",
        (PARITY + "commit_window_is_its_twin",),
    ),
    Mutation(
        "triton: noise of the first part of an embedding in all parts",
        f"{KERNELS}/noisy_embed/triton.py",
        "block = part * (BLOCK // 2) + tl.arange(0, BLOCK // 2)",
        "block = tl.arange(0, BLOCK // 2)",
        (PARITY + "noisy_embed_is_its_twin",),
    ),
    Mutation(
        "triton: an embedding's last part is left out",
        f"{KERNELS}/noisy_embed/triton.py",
        "embed_kernel[(width, images, triton.cdiv(size, _BLOCK))](",
        "embed_kernel[(width, images, max(1, size // _BLOCK))](",
        (PARITY + "noisy_embed_is_its_twin",),
    ),
    Mutation(
        "triton: strided tokens are taken for contiguous",
        f"{KERNELS}/noisy_embed/triton.py",
        "tokens_row=tokens.stride(0),",
        "tokens_row=width,",
        (PARITY + "noisy_embed_is_its_twin",),
    ),
    Mutation(
        "triton: a gradient ignores the share of noise",
        f"{KERNELS}/noisy_embed/triton.py",
        "share = grad * (1 - level).to(grad.dtype)",
        "share = grad",
        (PARITY + "noisy_embed_has_the_gradient_of_its_twin",),
    ),
    Mutation(
        "triton: the last tile of corrected tokens is left out",
        f"{KERNELS}/correct_window/triton/__init__.py",
        "triton.cdiv(vocab, _TOKENS), images)](",
        "max(1, vocab // _TOKENS), images)](",
        (CORRECT + "corrections_are_those_of_the_twin",),
    ),
    Mutation(
        "triton: the last tile of corrected columns is left out",
        f"{KERNELS}/correct_window/triton/__init__.py",
        "shift_kernel[(triton.cdiv(width, COLUMNS), ",
        "shift_kernel[(max(1, width // COLUMNS), ",
        (CORRECT + "corrections_are_those_of_the_twin",),
    ),
    Mutation(
        "triton: units of the hidden layer behind its end take part",
        f"{KERNELS}/correct_window/triton/__init__.py",
        "mask=(choices < vocab) & (depth < rank), other=0.0",
        "mask=(choices < vocab), other=0.0",
        (CORRECT + "corrections_are_those_of_the_twin",),
    ),
    Mutation(
        "triton: a corrector's second part of the hidden layer is left out",
        f"{KERNELS}/correct_window/triton/__init__.py",
        "INNERS=triton.cdiv(rank, INNER),",
        "INNERS=1,",
        (CORRECT + "a_wide_corrector_is_its_twin",),
    ),
    Mutation(
        "triton: neighbours of another offset",
        f"{KERNELS}/correct_window/triton/activate.py",
        "where = at - tl.load(offsets + number)",
        "where = at - tl.load(offsets + number) - 1",
        (CORRECT + "corrections_are_those_of_the_twin",),
    ),
    Mutation(
        "triton: tokens of another picture as neighbours",
        f"{KERNELS}/correct_window/triton/activate.py",
        "        tokens + image * tokens_row,\n",
        "        tokens,\n",
        (CORRECT + "corrections_are_those_of_the_twin",),
    ),
    Mutation(
        "triton: a forced token counts as a neighbour",
        f"{KERNELS}/correct_window/triton/activate.py",
        "token = tl.where(forced >= 0, nobody, token)",
        "token = tl.where(forced >= 0, token, token)",
        (CORRECT + "forced_tokens_are_left_alone",),
    ),
)

SAMPLER = (
    Mutation(
        "corrections see the drafts before they were moved",
        "sjd2/sampler/correction.py",
        "            tokens.scatter_(1, at, window.tokens)\n",
        "",
        (FORWARDS + "forwards_are_those_that_were_counted",),
    ),
    Mutation(
        "every column of a sweep is drawn for the window's first position",
        "sjd2/sampler/correction.py",
        "position=at[:, 0],",
        "position=position,",
        (ADDRESSES + "no_random_number_is_used_twice",),
    ),
    Mutation(
        "corrections start from what has been corrected",
        "sjd2/sampler/correction.py",
        "window = corrected(window, scored, 0, number + 1)",
        "window = scored = corrected(window, scored, 0, number + 1)",
        (FORWARDS + "forwards_are_those_that_were_counted",),
    ),
    Mutation(
        "the mask shows the slot behind",
        "sjd2/sampler/cache.py",
        "<= positions[..., None]).unsqueeze(1)",
        "<= positions[..., None] + 1).unsqueeze(1)",
        (CACHE + "rows_write_at_their_own_length_and_see_only_their_prefix",),
    ),
    Mutation(
        "a fresh cache holds garbage",
        "sjd2/sampler/cache.py",
        "return states.new_zeros(rows, heads, capacity, dimensions)",
        "return states.new_full((rows, heads, capacity, dimensions), float('nan'))",
        (CACHE + "a_fresh_cache_holds_no_garbage",),
    ),
    Mutation(
        "attention reads the whole cache",
        "sjd2/sampler/cache.py",
        "self._extent = min(self._longest + width, self.capacity)",
        "self._extent = self.capacity",
        (CACHE + "attention_reads_no_further_than_the_longest_row",),
    ),
    Mutation(
        "lengths stay when rows leave",
        "sjd2/sampler/cache.py",
        "        self.lengths = self.lengths[rows]\n",
        "        self.lengths = self.lengths[: len(rows)]\n",
        (CACHE + "rows_leave_with_their_entries",),
    ),
    Mutation(
        "guidance rows keep the entries of other pictures",
        "sjd2/sampler/state.py",
        "copies = torch.cat([rows + everyone * copy for copy in range(self.copies)])",
        "copies = torch.cat([rows + len(rows) * copy for copy in range(self.copies)])",
        (STATE + "finished_rows_leave_when_a_quarter_has",),
    ),
    Mutation(
        "finished rows never leave",
        "sjd2/sampler/state.py",
        "if len(unfinished) <= _WORTH_KEEPING * len(positions):",
        "if not unfinished:",
        (STATE + "finished_rows_leave_when_a_quarter_has",),
    ),
    Mutation(
        "the window never shrinks",
        "sjd2/sampler/state.py",
        "self.next_width = min(self.next_width, remaining)",
        "self.next_width = self.next_width + 0 * remaining",
        (STATE + "the_window_shrinks_to_what_remains",),
    ),
    Mutation(
        "a newcomer's iterations begin with its forward in the batch",
        "sjd2/sampler/state.py",
        "self.begun = begun.index_fill(0, at, self.iteration - fresh.iteration)",
        "self.begun = begun.index_fill(0, at, self.iteration)",
        (QUEUE + "a_picture_is_the_same_alone_and_from_a_queue",),
    ),
    Mutation(
        "a newcomer's last entry is its predecessor's",
        "sjd2/sampler/state.py",
        "        self.last_entry = self.last_entry.index_copy(0, cached, fresh.last_entry)\n",
        "",
        (
            QUEUE + "a_picture_is_the_same_alone_and_from_a_queue",
            QUEUE + "families_draw_from_a_queue_what_they_draw_alone",
        ),
    ),
    Mutation(
        "forwards of the predecessor are a newcomer's",
        "sjd2/sampler/queue.py",
        "        self.forwards[rows] = 0\n",
        "",
        (QUEUE + "forwards_of_a_picture_are_its_own",),
    ),
    Mutation(
        "a finished picture is overwritten by the next",
        "sjd2/sampler/queue.py",
        "tokens = state.tokens[row, : state.length].clone().cpu()",
        "tokens = state.tokens[row, : state.length]",
        (QUEUE + "a_picture_is_the_same_alone_and_from_a_queue",),
    ),
    Mutation(
        "a processor sees the padding of other prompts",
        "sjd2/sampler/queue.py",
        "input_ids[at, -width:], scores[at], drawn[at]",
        "input_ids[at], scores[at], drawn[at]",
        (QUEUE + "a_processor_sees_what_it_sees_where_a_picture_is_alone",),
    ),
    Mutation(
        "a processor sees a prefix one token short",
        "sjd2/sampler/decode.py",
        "ends = prompts.shape[1] + state.columns()",
        "ends = prompts.shape[1] + state.columns() - 1",
        (JANUS + "a_prefix_dependent_processor_sees_every_prefix",),
    ),
    Mutation(
        "noise behind the first window only",
        "sjd2/sampler/noise.py",
        "aged = torch.where(is_new, self.trajectory.steps, ",
        "aged = torch.where(is_new, 0, ",
        (FORWARDS + "forwards_are_those_that_were_counted",),
    ),
    Mutation(
        "unconditional rows are not gated",
        "sjd2/sampler/noise.py",
        "self.gate.noisy = noisy.repeat(state.copies, 1)",
        "self.gate.noisy = torch.cat((noisy, noisy & False))[: len(noisy) * state.copies]",
        (FORWARDS + "forwards_are_those_that_were_counted",),
    ),
    Mutation(
        "a forced token is fed as noise",
        "sjd2/sampler/noise.py",
        "steps = steps.masked_fill(forced, 0)",
        "pass",
        (FORWARDS + "forwards_are_those_that_were_counted",),
        "what is committed does not depend on it, and the embedded model forces no token",
    ),
    Mutation(
        "the front of a window is noise",
        "sjd2/sampler/schedule.py",
        "(column * (steps + 1) // width).clamp(max=steps)",
        "(column * (steps + 1) // width + 1).clamp(max=steps)",
        (DENOISING + "the_front_of_a_window_is_clean",),
    ),
    Mutation(
        "levels end below pure noise",
        "sjd2/sampler/schedule.py",
        "levels[0], levels[-1] = 0.0, 1.0",
        "levels[0] = 0.0",
        (DENOISING + "levels_rise_from_clean_to_pure_noise",),
    ),
    Mutation(
        "own log-probabilities are those of unconditional rows",
        "sjd2/sampler/logprobs.py",
        "now.raw[: len(state.rows)].float()",
        "now.raw[-len(state.rows) :].float()",
        ("tests/sampler/test_logprobs.py",),
    ),
)

MODELS = (
    Mutation(
        "eager attention adds a mask of truth values",
        "sjd2/models/backbone.py",
        "return torch.where(mask, hidden, torch.finfo(dtype).min)",
        "return mask.to(dtype)",
        (JANUS + "greedy_equals_stock_generate_under_eager_attention",),
    ),
    Mutation(
        "tokens of the grammar can be drawn",
        "sjd2/models/head.py",
        "logits[..., self.codes :] = torch.finfo(logits.dtype).min",
        "pass",
        (FAMILIES + "tokens_of_the_grammar_are_drawn_nowhere_else",),
    ),
    Mutation(
        "an adapted head is bypassed",
        "sjd2/models/head.py",
        "return not is_hooked and",
        "return",
        (
            FAMILIES + "a_head_that_is_adapted_is_called",
            FAMILIES + "a_head_that_is_packed_is_called",
            "tests/models/test_offload.py",
        ),
    ),
    Mutation(
        "rows of a head in training are remembered",
        "sjd2/models/head.py",
        "rows = None if torch.is_grad_enabled() else self._rows",
        "rows = self._rows",
        (FAMILIES + "trained_heads_are_not_remembered",),
    ),
    Mutation(
        "an unconditional prompt keeps its words",
        "sjd2/models/janus.py",
        "return torch.where(is_kept, input_ids, needed",
        "return torch.where(is_kept | True, input_ids, needed",
        (JANUS + "greedy_equals_stock_generate",),
    ),
    Mutation(
        "a negative prompt is one for all",
        "sjd2/models/decoder.py",
        "return ids.repeat_interleave(repeats, 0), mask.repeat_interleave(repeats, 0)",
        "return ids[:1].expand(len(input_ids), -1), mask[:1].expand(len(input_ids), -1)",
        (FAMILIES + "negative_prompts_are_what_guidance_compares_with",),
    ),
    Mutation(
        "a picture is laid out without its row ends",
        "sjd2/models/layout.py",
        "row = (-1,) * self.width + self.end_of_row",
        "row = (-1,) * (self.width + len(self.end_of_row))",
        (FAMILIES + "the_grammar_holds_in_every_row",),
    ),
    Mutation(
        "an adapter acts on clean inputs",
        "sjd2/companions/adapter.py",
        "return torch.where(gate.noisy.unsqueeze(-1), output + update, output)",
        "return output + update",
        (DENOISING + "a_loud_adapter_changes_no_token",),
    ),
    Mutation(
        "an adapter acts in another thread's forwards",
        "sjd2/companions/adapter.py",
        "return self.noisy is not None and self.thread in (None, get_ident())",
        "return self.noisy is not None",
        ("tests/models/test_threads.py",),
    ),
    Mutation(
        "a corrector reads conditional states only",
        "sjd2/companions/corrector.py",
        "torch.cat((hidden[:images], hidden[-images:]), dim=-1)",
        "torch.cat((hidden[:images], hidden[:images]), dim=-1)",
        (FORWARDS + "forwards_are_those_that_were_counted",),
    ),
    Mutation(
        "weights that changed correct as they did before",
        "sjd2/companions/corrector.py",
        "if made is None or made[0] != made_of:",
        "if made is None:",
        ("tests/companions/test_companions.py",),
    ),
)

FINETUNE = (
    Mutation(
        "a packed window sees the picture up to its end",
        "sjd2/finetune/packing.py",
        "limit[:, first + length :] = start.repeat_interleave(width, dim=1)",
        "limit[:, first + length :] = start.repeat_interleave(width, dim=1) + width",
        (PACKING + "packed_windows_predict_what_decoding_predicted",),
    ),
    Mutation(
        "packed windows see each other",
        "sjd2/finetune/packing.py",
        "2 + torch.arange(count, device=device).repeat_interleave(width),",
        "2 + 0 * torch.arange(count, device=device).repeat_interleave(width),",
        (PACKING + "packed_windows_predict_what_decoding_predicted",),
    ),
    Mutation(
        "a packed window stands one position off",
        "sjd2/finetune/packing.py",
        "before + slots.flatten(1),",
        "before + slots.flatten(1) + 1,",
        (PACKING + "packed_windows_predict_what_decoding_predicted",),
    ),
    Mutation(
        "the truth of another column",
        "sjd2/finetune/packing.py",
        "truth = truth[rows, column.clamp(max=length - 2)]",
        "truth = truth[rows, (column + 1).clamp(max=length - 2)]",
        (PACKING + "packed_windows_predict_what_decoding_predicted",),
    ),
    Mutation(
        "hidden states of the picture begin with its first token's",
        "sjd2/finetune/packing.py",
        "last = hidden[every, prompt.lengths - 1].unsqueeze(1)",
        "last = hidden[every, prompt.lengths - 2].unsqueeze(1)",
        (PACKING + "hidden_behind_is_a_plain_forward",),
    ),
    Mutation(
        "noise rises by two levels",
        "sjd2/finetune/objective.py",
        "level = 0 if level == steps or next(draws) < 1 / (2 * steps) else level + 1",
        "level = 0 if level == steps or next(draws) < 1 / (2 * steps) else min(level + 2, steps)",
        (PACKING + "noise_rises_by_one_level_and_falls_to_none",),
    ),
    Mutation(
        "a run that goes on chooses other windows",
        "sjd2/finetune/rollouts.py",
        'keyed_generator(self.seed, "windows", self.rank, number)',
        'keyed_generator(self.seed, "windows", self.rank, number - self.start)',
        (PACKING + "rollouts_go_on_where_they_stopped",),
    ),
    Mutation(
        "columns whose neighbours stayed are learned from",
        "sjd2/finetune/corrector.py",
        "changed = (old != new).any(dim=-1)",
        "changed = (old == old).any(dim=-1)",
        (LEARNED + "moves_are_of_columns_whose_neighbours_changed",),
    ),
    Mutation(
        "a move is learned backwards",
        "sjd2/finetune/corrector.py",
        "moved = F.dropout(becomes - was, self.dropout, self.training)",
        "moved = F.dropout(was - becomes, self.dropout, self.training)",
        (LEARNED + "a_corrector_is_learned_as_it_is_applied",),
    ),
    Mutation(
        "a move pairs columns of different positions",
        "sjd2/finetune/corrector.py",
        "+ (later.start - self.start)",
        "+ (later.start - self.start + 1)",
        (LEARNED + "a_move_pairs_the_predictions_of_one_position",),
    ),
)

MUTATIONS = (*NAMED, *STREAMS, *EAGER, *TRITON, *SAMPLER, *MODELS, *FINETUNE)
