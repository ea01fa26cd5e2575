"""Block sizes and warps by shape: a static table, since autotuning would break CUDA graphs."""

from typing import Any

import torch
import triton

from sjd2.kernels.philox import GROUP

# Vocabulary up to this size -> tokens that a sweep holds in registers, and its threads. Larger
# vocabularies are swept in chunks. By bench/compile_kernels.py none of these spills.
_SWEEPS = {1024: (1024, 128), 4096: (4096, 512), 16384: (16384, 1024)}
_CHUNK = (8192, 512)
# The search for the top-p threshold keeps three numbers per token in registers.
_SWEEPS_OF_TOP_P = {1024: (1024, 128), 4096: (4096, 512)}
_CHUNK_OF_TOP_P = (4096, 512)
_RACE = {32: 1024, 64: 512}  # tokens that race at once, by warp size; more would spill
_SHORTEST_RACE = 2 * GROUP  # the noise of groups is made in pairs

WARP_SIZE = 64 if torch.version.hip else 32  # on the GPUs that this build of torch supports

# The eager twins round after every operation, so multiplications and additions are not fused.
EXACT: dict[str, Any] = {"enable_fp_fusion": False}


def warps(threads: int) -> int:
    """Warps for a number of threads."""
    return max(1, threads // WARP_SIZE)


def tiles_for(vocab: int, top_p: bool) -> dict[str, Any]:
    """The compile-time arguments by which a program of `verify_window` sweeps a vocabulary."""
    sweeps, chunk = (_SWEEPS_OF_TOP_P, _CHUNK_OF_TOP_P) if top_p else (_SWEEPS, _CHUNK)
    block, threads = next((tile for most, tile in sweeps.items() if vocab <= most), chunk)
    block = min(block, max(_SHORTEST_RACE, triton.next_power_of_2(vocab)))
    race = min(_RACE[WARP_SIZE], block)
    return {
        "BLOCK": block,
        "CHUNKS": triton.cdiv(vocab, block),
        "RACE": race,
        "RACES": triton.cdiv(vocab, race),
        "num_warps": warps(threads),
        **EXACT,
    }
