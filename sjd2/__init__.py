"""Autoregressive text-to-image models, several times faster, drawing what they always drew."""

from sjd2 import demo
from sjd2.companions import load_adapter, load_corrector, save_adapter, save_corrector
from sjd2.config import DecodingConfig
from sjd2.custom_generate import generate
from sjd2.models import register_family
from sjd2.patching import (
    accelerate,
    accelerated,
    decoding_stats,
    new_adapter,
    new_corrector,
    restore,
)
from sjd2.pixels.vqgan import load_vq_decoder
from sjd2.sampler import DecodingStats

__version__ = "0.1.0"

__all__ = [
    "DecodingConfig",
    "DecodingStats",
    "__version__",
    "accelerate",
    "accelerated",
    "decoding_stats",
    "demo",
    "generate",
    "load_adapter",
    "load_corrector",
    "load_vq_decoder",
    "new_adapter",
    "new_corrector",
    "register_family",
    "restore",
    "save_adapter",
    "save_corrector",
]
