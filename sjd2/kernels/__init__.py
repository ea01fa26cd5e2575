"""The arithmetic of decoding as a handful of operations on tensors; no model is known here.

Every operation is a folder: its contract in `__init__.py`, its twin in plain torch in `eager.py`,
its Triton path in `triton.py` or `triton/`, and in `cpu.py` what makes the twin fast on a CPU.
`target` and `philox` are shared by the operations: the target distribution and random numbers.
"""

from sjd2.kernels.commit_window import commit_window
from sjd2.kernels.correct_window import activate_window, correct_window
from sjd2.kernels.denoise_window import denoise_window, embed_window
from sjd2.kernels.kv_cache import kv_append, kv_compact, kv_truncate
from sjd2.kernels.noisy_embed import denoise_step, noisy_embed
from sjd2.kernels.token_log_probs import token_log_probs
from sjd2.kernels.types import (
    Coupling,
    DraftKind,
    Noise,
    Rules,
    Shifts,
    Start,
    Verdict,
    Verify,
    Window,
)
from sjd2.kernels.verify_window import first_window, verify_window

__all__ = [
    "Coupling",
    "DraftKind",
    "Noise",
    "Rules",
    "Shifts",
    "Start",
    "Verdict",
    "Verify",
    "Window",
    "activate_window",
    "commit_window",
    "correct_window",
    "denoise_step",
    "denoise_window",
    "embed_window",
    "first_window",
    "kv_append",
    "kv_compact",
    "kv_truncate",
    "noisy_embed",
    "token_log_probs",
    "verify_window",
]
