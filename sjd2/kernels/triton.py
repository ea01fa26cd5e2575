"""The operations as Triton kernels: same names and signatures as the eager twins."""

from sjd2.kernels.commit_window.triton import commit_window
from sjd2.kernels.correct_window.triton import correct_window
from sjd2.kernels.correct_window.triton.activate import activate_window
from sjd2.kernels.denoise_window.triton import denoise_window, embed_window
from sjd2.kernels.eager import first_window
from sjd2.kernels.kv_cache.triton import kv_append, kv_compact, kv_truncate
from sjd2.kernels.noisy_embed.triton import denoise_step, noisy_embed
from sjd2.kernels.verify_window.triton import verify_window

__all__ = [
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
    "verify_window",
]
