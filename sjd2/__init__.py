"""Autoregressive text-to-image models, several times faster, drawing what they always drew.

>>> import sjd2
>>> model, processor = sjd2.demo.load()
>>> inputs = processor(text=["a red ring"], generation_mode="image", return_tensors="pt")
>>> model = sjd2.accelerate(model)
>>> tokens = model.generate(**inputs, generation_mode="image", do_sample=True, seed=0)
>>> tokens.shape[1] / sjd2.decoding_stats(model).total_forward_passes > 5
True
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sjd2 import demo

if TYPE_CHECKING:
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
    from sjd2.pictures.generator import ImageGenerator
    from sjd2.pixels.vqgan import load_vq_decoder
    from sjd2.sampler import DecodingStats

__version__ = "0.1.0"

__all__ = [
    "DecodingConfig",
    "DecodingStats",
    "ImageGenerator",
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

# Where the names above are. Imported at first use: torch and transformers take seconds, and
# `sjd2 --help` needs neither.
_HOMES = {
    "sjd2.companions": ("load_adapter", "load_corrector", "save_adapter", "save_corrector"),
    "sjd2.config": ("DecodingConfig",),
    "sjd2.custom_generate": ("generate",),
    "sjd2.models": ("register_family",),
    "sjd2.patching": (
        *("accelerate", "accelerated", "decoding_stats"),
        *("new_adapter", "new_corrector", "restore"),
    ),
    "sjd2.pictures.generator": ("ImageGenerator",),
    "sjd2.pixels.vqgan": ("load_vq_decoder",),
    "sjd2.sampler": ("DecodingStats",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'sjd2' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
