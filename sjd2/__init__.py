"""Autoregressive text-to-image models, several times faster, drawing what they always drew."""

from sjd2 import demo
from sjd2.config import DecodingConfig
from sjd2.models.companions import load_adapter, load_corrector, save_adapter, save_corrector
from sjd2.patching import (
    accelerate,
    accelerated,
    decoding_stats,
    new_adapter,
    new_corrector,
    restore,
)
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
    "load_adapter",
    "load_corrector",
    "new_adapter",
    "new_corrector",
    "restore",
    "save_adapter",
    "save_corrector",
]
