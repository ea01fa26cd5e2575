"""The eager twins: same names and signatures as the operations, in plain torch."""

from sjd2.kernels.reference.commit_window import commit_window
from sjd2.kernels.reference.correct_window import activate_window, correct_window
from sjd2.kernels.reference.kv_cache import kv_append, kv_compact, kv_truncate
from sjd2.kernels.reference.noisy_embed import denoise_step, noisy_embed
from sjd2.kernels.reference.verify_window import first_window, verify_window

__all__ = [
    "activate_window",
    "commit_window",
    "correct_window",
    "denoise_step",
    "first_window",
    "kv_append",
    "kv_compact",
    "kv_truncate",
    "noisy_embed",
    "verify_window",
]
