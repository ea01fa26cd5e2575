"""The eager twins: same names and signatures as the operations, in plain torch."""

from sjd2.kernels.commit_window.eager import commit_window
from sjd2.kernels.correct_window.eager import activate_window, correct_window
from sjd2.kernels.denoise_window.eager import denoise_window, embed_window
from sjd2.kernels.kv_cache.eager import kv_append, kv_compact, kv_truncate
from sjd2.kernels.noisy_embed.eager import denoise_step, noisy_embed
from sjd2.kernels.verify_window.eager import first_window, verify_window

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
