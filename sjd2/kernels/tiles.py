"""Block sizes and warps by shape: a static table, for autotuning would break CUDA graphs."""

from typing import Any

import torch
import triton

from sjd2.kernels.philox import GROUP

# A vocabulary up to this size -> tokens that a sweep holds at once, and threads that hold them.
# Larger ones are swept in chunks. Found with bench/compile_kernels.py: none of these spills.
_SWEEPS = {1024: (1024, 128), 4096: (4096, 512), 16384: (16384, 1024)}
_CHUNK = (8192, 512)
# The search for top-p's cut keeps three numbers of every token in registers.
_SWEEPS_OF_TOP_P = {1024: (1024, 128), 4096: (4096, 512)}
_CHUNK_OF_TOP_P = (4096, 512)
_RACE = {32: 1024, 64: 512}  # tokens that race at once, by warp size: more of them would spill
_SHORTEST_RACE = 2 * GROUP  # noise of groups comes in pairs

WARP_SIZE = 64 if torch.version.hip else 32  # of the GPUs that this build of torch is for

# The twins round after every operation; a fused one would round once.
EXACT: dict[str, Any] = {"enable_fp_fusion": False}


def warps(threads: int) -> int:
    """How many warps so many threads are."""
    return max(1, threads // WARP_SIZE)


def tiles_for(vocab: int, top_p: bool) -> dict[str, Any]:
    """How a program of `verify_window` goes through a vocabulary: its compile-time arguments."""
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
