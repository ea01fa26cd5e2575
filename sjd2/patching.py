"""`accelerate` and `restore`: one attribute on one instance, and its removal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch

from sjd2.config import DecodingConfig, seeds_for
from sjd2.kernels._dispatch import select
from sjd2.models import family_of
from sjd2.sampler import DecodingStats, decode

M = TypeVar("M")


class Accelerated:
    """Stands as `model.generate` and answers the calls that draw pictures.

    Everything else goes to the generate that the model had before. Being a plain object that holds
    its model, it follows the model through pickle and deepcopy and then drives the copy.
    """

    def __init__(self, model: Any, config: DecodingConfig) -> None:
        self.model = model
        self.config = config
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
            return own(*args, **own_kwargs)
        if seed is None:
            seed = int(torch.randint(2**62, ()))
        seeds = seeds_for(seed, request.images)
        tokens, self.stats = decode(family, request, self.config, seeds)
        return request.finish(tokens)


def accelerate(model: M, config: DecodingConfig | None = None, **options: Any) -> M:
    """Make `model.generate` draw pictures in several times fewer forwards.

    The model's weights, class and configuration stay untouched; an accelerated model can be
    accelerated again, which replaces the settings.

    Args:
        model: a supported transformers model (see README).
        config: the settings, or
        **options: the same by name, such as `window=32`; they overrule `config`.

    Returns:
        The same object.

    Raises:
        TypeError: no family is known for the model, or an option is unknown.
        ValueError: a setting is out of range, or its backend cannot run here.
    """
    family_of(model)
    if config is not None and not isinstance(config, DecodingConfig):
        raise TypeError(f"config is a {type(config).__name__}, must be a DecodingConfig")
    settings = replace(config or DecodingConfig(), **options)
    select(settings.backend)
    model.generate = Accelerated(model, settings)  # type: ignore[attr-defined]
    return model


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
def accelerated(model: M, config: DecodingConfig | None = None, **options: Any) -> Iterator[M]:
    """`accelerate` for the length of a `with` block; afterwards all is as it was before.

    Args and Raises: as `accelerate`.
    """
    before = _hook(model)
    accelerate(model, config, **options)
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
    hook = _hook(model)
    if hook is None:
        raise ValueError("the model is not accelerated: call sjd2.accelerate(model) first")
    if hook.stats is None:
        raise ValueError("the model has drawn no picture since it was accelerated")
    return hook.stats


def _hook(model: object) -> Accelerated | None:
    hook = vars(model).get("generate")
    return hook if isinstance(hook, Accelerated) else None
