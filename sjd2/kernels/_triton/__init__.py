"""The operations as Triton kernels: same names and signatures as the eager twins."""

from sjd2.kernels._triton.activate_window import activate_window
from sjd2.kernels._triton.commit_window import commit_window
from sjd2.kernels._triton.correct_window import correct_window
from sjd2.kernels._triton.kv_cache import kv_append, kv_compact, kv_truncate
from sjd2.kernels._triton.noisy_embed import denoise_step, noisy_embed
from sjd2.kernels._triton.verify_window import verify_window
from sjd2.kernels.reference import first_window

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
