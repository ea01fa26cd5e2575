"""`accelerate` and `restore`: one attribute on one instance, and its removal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sjd2.config import DecodingConfig
from sjd2.custom_generate import answer, last_stats
from sjd2.kernels._dispatch import select
from sjd2.models import family_of, inner_model
from sjd2.models.adapter import Adapter
from sjd2.models.adapter_files import check_base, load_adapter, make_adapter
from sjd2.sampler import DecodingStats

M = TypeVar("M")


class Accelerated:
    """Stands as `model.generate` and answers the calls that draw pictures.

    Everything else goes to the generate that the model had before. Being a plain object that holds
    its model, it follows the model through pickle and deepcopy and then drives the copy.
    """

    def __init__(self, model: Any, config: DecodingConfig, adapter: Adapter | None) -> None:
        self.model = model
        self.config = config
        self.adapter = adapter
        # Somebody else may have set a `generate` on the instance: it is called, and comes back.
        hook = _hook(model)
        self.replaced: Any = hook.replaced if hook else vars(model).get("generate")
        self.stats: DecodingStats | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Same arguments and result as the model's own `generate`, and `seed`."""
        family = family_of(self.model)
        own_kwargs = dict(kwargs)
        seed = own_kwargs.pop("seed", self.config.seed)
        request = family.request(*args, **own_kwargs)
        if request is None:
            own = self.replaced or partial(type(self.model).generate, self.model)
            if not family.own_generation_mode:
                own_kwargs.pop("generation_mode", None)
            return own(*args, **own_kwargs)
        result, self.stats = answer(family, request, self.config, seed, self.adapter)
        return result


def accelerate(
    model: M,
    config: DecodingConfig | None = None,
    *,
    adapter: Adapter | str | Path | None = "auto",
    **options: Any,
) -> M:
    """Make `model.generate` draw pictures in several times fewer forwards.

    The model's weights, class and configuration stay untouched; an accelerated model can be
    accelerated again, which replaces the settings.

    Args:
        model: a supported transformers model (see README).
        config: the settings, or
        adapter: the denoising adapter of method "sjd2": one of `new_adapter`, the folder of one,
            "auto" for the one that the model carries already, if any, or None for none.
        **options: the settings by name, such as `window=32`; they overrule `config`.

    Returns:
        The same object.

    Raises:
        TypeError: no family is known for the model, or an option is unknown.
        ValueError: a setting is out of range, its backend cannot run here, or the adapter is
            missing, damaged or another model's.
        FileNotFoundError: there is no adapter in the folder.
    """
    family_of(model)
    if config is not None and not isinstance(config, DecodingConfig):
        raise TypeError(f"config is a {type(config).__name__}, must be a DecodingConfig")
    settings = replace(config or DecodingConfig(), **options)
    select(settings.backend)
    denoiser = _denoiser(model, adapter)
    if denoiser is None and (settings.method == "sjd2" or not settings.exact):
        wanted = "method='sjd2'" if settings.method == "sjd2" else "exact=False"
        raise ValueError(f"{wanted}: needs adapter=, a denoising adapter or its folder")
    model.generate = Accelerated(model, settings, denoiser)  # type: ignore[attr-defined]
    return model


def new_adapter(model: object, rank: int = 16) -> Adapter:
    """A denoising adapter for a model, untrained: it changes nothing yet.

    Args:
        model: a supported transformers model.
        rank: of the low-rank updates; 0 leaves the embedding of the noise level alone.

    Returns:
        An `nn.Module` in float32 on the model's device.

    Raises:
        TypeError: no family is known for the model.
        ValueError: a rank below 0.

    RNG: torch's default generator.
    """
    return make_adapter(family_of(model), rank)


def restore(model: M) -> M:
    """Take the acceleration off again; a model without one is returned as it is.

    Returns:
        The same object, its `__dict__` as before `accelerate`.
    """
    hook = _hook(model)
    if hook is not None:
        del model.generate  # type: ignore[attr-defined]
        if hook.replaced is not None:
            model.generate = hook.replaced  # type: ignore[attr-defined]
    return model


@contextmanager
def accelerated(
    model: M,
    config: DecodingConfig | None = None,
    *,
    adapter: Adapter | str | Path | None = "auto",
    **options: Any,
) -> Iterator[M]:
    """`accelerate` for the length of a `with` block; afterwards all is as it was before.

    Args and Raises: as `accelerate`.
    """
    before = _hook(model)
    accelerate(model, config, adapter=adapter, **options)
    try:
        yield model
    finally:
        restore(model)
        if before is not None:
            model.generate = before  # type: ignore[attr-defined]


def decoding_stats(model: object) -> DecodingStats:
    """The account of the last accelerated call of `model.generate`.

    Raises:
        ValueError: the model is not accelerated, or has drawn nothing yet.
    """
    hook = _hook(model) or _hook(inner_model(model))
    if hook is None:
        stats = last_stats(model)
        if stats is not None:
            return stats
        raise ValueError("the model is not accelerated: call sjd2.accelerate(model) first")
    if hook.stats is None:
        raise ValueError("the model has drawn no picture since it was accelerated")
    return hook.stats


def _denoiser(model: object, adapter: Adapter | str | Path | None) -> Adapter | None:
    """The adapter that `accelerate` was asked for, seen to belong to the model."""
    if adapter == "auto":
        hook = _hook(model)
        return hook.adapter if hook else None
    if adapter is None:
        return None
    family = family_of(model)
    if isinstance(adapter, (str, Path)):
        adapter = load_adapter(adapter).to(family.embedding_table().device)
    if not isinstance(adapter, Adapter):
        raise TypeError(f"adapter is a {type(adapter).__name__}, must be an Adapter or its folder")
    check_base(adapter, family)
    return adapter


def _hook(model: object) -> Accelerated | None:
    hook = vars(model).get("generate")
    return hook if isinstance(hook, Accelerated) else None
