"""`accelerate` and `restore`: one attribute on one instance, and its removal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from sjd2.models.companions import (
    Kind,
    carried,
    check_base,
    load_adapter,
    load_corrector,
    make_adapter,
    make_corrector,
)
from sjd2.models.corrector import Corrector
from sjd2.sampler import DecodingStats

M = TypeVar("M")

_COMPANIONS: dict[Kind, tuple[Any, Callable[[str | Path], Any]]] = {
    "adapter": (Adapter, load_adapter),
    "corrector": (Corrector, load_corrector),
}


class Accelerated:
    """Stands as `model.generate` and answers the calls that draw pictures.

    Everything else goes to the generate that the model had before. Being a plain object that holds
    its model, it follows the model through pickle and deepcopy and then drives the copy.
    """

    def __init__(
        self,
        model: Any,
        config: DecodingConfig,
        adapter: Adapter | None,
        corrector: Corrector | None,
    ) -> None:
        self.model = model
        self.config = config
        self.adapter, self.corrector = adapter, corrector
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
        companions = (self.adapter, self.corrector)
        result, self.stats = answer(family, request, self.config, seed, *companions)
        return result


def accelerate(
    model: M,
    config: DecodingConfig | None = None,
    *,
    adapter: Adapter | str | Path | None = "auto",
    corrector: Corrector | str | Path | None = "auto",
    **options: Any,
) -> M:
    """Make `model.generate` draw pictures in several times fewer forwards.

    The model's weights, class and configuration stay untouched; an accelerated model can be
    accelerated again, which replaces the settings.

    Args:
        model: a supported transformers model (see README).
        config: the settings, or
        adapter: the denoising adapter of method "sjd2": one of `new_adapter`, the folder of one,
            "auto" for the one that the model carries, if any (it was accelerated with it, or its
            weights were read from a folder with an adapter/ in it), or None for none. Where it is
            "auto" too, method "auto" is "sjd" if that measured faster when the adapter was trained.
        corrector: what re-drafts windows between forwards: one of `new_corrector`, a folder, "auto"
            or None likewise. It changes speed only.
        **options: the settings by name, such as `window=32`; they overrule `config`.

    Returns:
        The same object.

    Raises:
        TypeError: no family is known for the model, or an option is unknown.
        ValueError: a setting is out of range, its backend cannot run here, or an adapter or
            corrector is missing, damaged or another model's.
        FileNotFoundError: there is none in the folder.
    """
    family_of(model)
    if config is not None and not isinstance(config, DecodingConfig):
        raise TypeError(f"config is a {type(config).__name__}, must be a DecodingConfig")
    settings = replace(config or DecodingConfig(), **options)
    select(settings.backend)
    denoiser = _companion(model, "adapter", adapter)
    redrafter = _companion(model, "corrector", corrector)
    # The published rules are of sjd2 alone: who asks for them means it.
    is_open = adapter == "auto" and settings.method == "auto" and settings.exact
    if is_open and denoiser is not None and not denoiser.pays:
        settings = replace(settings, method="sjd")
    if denoiser is None and (settings.method == "sjd2" or not settings.exact):
        wanted = "method='sjd2'" if settings.method == "sjd2" else "exact=False"
        raise ValueError(f"{wanted}: needs adapter=, a denoising adapter or its folder")
    model.generate = Accelerated(model, settings, denoiser, redrafter)  # type: ignore[attr-defined]
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


def new_corrector(model: object, rank: int = 192) -> Corrector:
    """A corrector for a model, untrained: it corrects nothing yet.

    Args:
        model: a supported transformers model.
        rank: its inner width.

    Returns:
        An `nn.Module` in float32 on the model's device.

    Raises:
        TypeError: no family is known for the model.
        ValueError: a rank below 1.

    RNG: torch's default generator.
    """
    return make_corrector(family_of(model), rank)


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
    elif inner_model(model) is not model:
        # It was accelerated before peft wrapped it.
        restore(inner_model(model))
    return model


@contextmanager
def accelerated(
    model: M,
    config: DecodingConfig | None = None,
    *,
    adapter: Adapter | str | Path | None = "auto",
    corrector: Corrector | str | Path | None = "auto",
    **options: Any,
) -> Iterator[M]:
    """`accelerate` for the length of a `with` block; afterwards all is as it was before.

    Args and Raises: as `accelerate`.
    """
    before = _hook(model)
    accelerate(model, config, adapter=adapter, corrector=corrector, **options)
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


def _companion(model: object, kind: Kind, given: Any) -> Any:
    """The adapter or corrector that `accelerate` was asked for, seen to belong to the model."""
    wanted, load = _COMPANIONS[kind]
    if isinstance(given, str) and given == "auto":
        hook = _hook(model)
        given = getattr(hook, kind) if hook else carried(model, kind)
    if given is None:
        return None
    family = family_of(model)
    if isinstance(given, (str, Path)):
        given = load(given).to(family.embedding_table().device)
    if not isinstance(given, wanted):
        raise TypeError(
            f"{kind} is a {type(given).__name__}, must be a {wanted.__name__} or its folder"
        )
    check_base(given, kind, family)
    return given


def _hook(model: object) -> Accelerated | None:
    hook = vars(model).get("generate")
    return hook if isinstance(hook, Accelerated) else None
