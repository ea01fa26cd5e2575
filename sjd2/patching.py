"""`accelerate` and `restore`: one attribute on one instance, and its removal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sjd2.companions import Companions, find_companions, make_adapter, make_corrector
from sjd2.companions.adapter import Adapter
from sjd2.companions.corrector import Corrector
from sjd2.config import DecodingConfig
from sjd2.custom_generate import answer, last_stats
from sjd2.kernels._dispatch import select
from sjd2.models import family_of, inner_model
from sjd2.models.backbone import own_attention
from sjd2.placement import bring
from sjd2.sampler import DecodingStats, Method, resolve
from sjd2.sampler.logprobs import checked_choice

M = TypeVar("M")


class Accelerated:
    """Stands as `model.generate` and answers the calls that draw pictures.

    Everything else goes to the generate that the model had before. Being a plain object that holds
    its model, it follows the model through pickle and deepcopy and then drives the copy.
    """

    def __init__(
        self,
        model: Any,
        method: Method,
        companions: Companions,
    ) -> None:
        self.model = model
        self.method, self.companions = method, companions
        # Somebody else may have set a `generate` on the instance: it is called, and comes back.
        hook = _hook(model)
        self.replaced: Any = hook.replaced if hook else vars(model).get("generate")
        self.stats: DecodingStats | None = None

    @property
    def config(self) -> DecodingConfig:
        """The settings."""
        return self.method.config

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Same arguments and result as the model's own `generate`, `seed` and `output_logprobs`.

        The last is False, True or "both"; see `sjd2.generate`.
        """
        family = family_of(self.model)
        bring(inner_model(self.model))
        own_kwargs = dict(kwargs)
        seed = own_kwargs.pop("seed", self.method.config.seed)
        logprobs = checked_choice(own_kwargs.pop("output_logprobs", False))
        request = family.request(*args, **own_kwargs)
        if request is None:
            if logprobs:
                raise ValueError("output_logprobs: the model's own generate answers this call")
            own = self.replaced or partial(type(self.model).generate, self.model)
            if not family.own_generation_mode:
                own_kwargs.pop("generation_mode", None)
            with own_attention(family.backbone):
                return own(*args, **own_kwargs)
        result, self.stats = answer(family, request, self.method, seed, logprobs)
        return result


def accelerate(
    model: M,
    config: DecodingConfig | None = None,
    *,
    adapter: Adapter | str | Path | None = "auto",
    corrector: Corrector | str | Path | None = "auto",
    force: bool = False,
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
            weights were read from a folder with an adapter/ in it), or None for none. One that
            "auto" finds is left out by method "auto" where it measured slower than none or there is
            a corrector, and, with a warning, where it does not belong to these weights.
        corrector: what re-drafts windows between forwards: one of `new_corrector`, a folder, "auto"
            or None likewise. It changes speed only.
        force: take an adapter or a corrector that is named although its fingerprint is of other
            weights, such as those that these were quantised from or merged into. It may cost
            speed, never exactness.
        **options: the settings by name, such as `window=32`; they overrule `config`.

    Returns:
        The same object.

    Raises:
        TypeError: no family is known for the model, or an option is unknown.
        ValueError: a setting is out of range, its backend cannot run here, or an adapter or
            corrector is missing, damaged or another model's.
        FileNotFoundError: there is none in the folder.

    Example: the very picture that token-by-token decoding draws from the same seed.

        >>> import sjd2
        >>> model, processor = sjd2.demo.load()
        >>> inputs = processor(text=["a red ring"], generation_mode="image", return_tensors="pt")
        >>> drawing = dict(**inputs, generation_mode="image", do_sample=True, seed=7)
        >>> slow = sjd2.accelerate(model, method="ar").generate(**drawing)
        >>> fast = sjd2.accelerate(model, verify="gumbel").generate(**drawing)
        >>> fast.equal(slow)
        True
    """
    method, companions = method_of(model, config, adapter, corrector, force=force, **options)
    return install(model, method, companions)


def method_of(
    model: object,
    config: DecodingConfig | None = None,
    adapter: Adapter | str | Path | None = "auto",
    corrector: Corrector | str | Path | None = "auto",
    *,
    force: bool = False,
    **options: Any,
) -> tuple[Method, Companions]:
    """How `accelerate` would let a model decode, and the companions that it found.

    Args and Raises: as `accelerate`.
    """
    family = family_of(model)
    if config is not None and not isinstance(config, DecodingConfig):
        raise TypeError(f"config is a {type(config).__name__}, must be a DecodingConfig")
    settings = replace(config or DecodingConfig(), **options)
    select(settings.backend)
    hook = _hook(model)
    known = hook.companions if hook else None
    companions = find_companions(model, family, adapter, corrector, known, force=force)
    return resolve(settings, companions), companions


def install(model: M, method: Method, companions: Companions | None = None) -> M:
    """Let `model.generate` draw by a method; `accelerate` is this, with the method made of options.

    Args:
        model: a supported transformers model.
        method: how to decode.
        companions: what "auto" finds when the model is accelerated again.

    Returns:
        The same object.
    """
    model.generate = Accelerated(model, method, companions or Companions())  # type: ignore[attr-defined]
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

    Raises:
        TypeError: it is no model at all.
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
    force: bool = False,
    **options: Any,
) -> Iterator[M]:
    """`accelerate` for the length of a `with` block; afterwards all is as it was before.

    Args and Raises: as `accelerate`.
    """
    with _undone(model):
        yield accelerate(
            model, config, adapter=adapter, corrector=corrector, force=force, **options
        )


@contextmanager
def installed(model: M, method: Method) -> Iterator[M]:
    """`install` for the length of a `with` block; afterwards all is as it was before."""
    with _undone(model):
        yield install(model, method)


@contextmanager
def _undone(model: Any) -> Iterator[None]:
    """Whatever acceleration the block puts on the model is taken off again."""
    before = _hook(model)
    try:
        yield
    finally:
        restore(model)
        if before is not None:
            model.generate = before


def decoding_stats(model: object) -> DecodingStats:
    """The account of the last accelerated call of `model.generate`.

    Raises:
        TypeError: it is no model at all.
        ValueError: the model is not accelerated, or has drawn nothing yet.

    Example:
        >>> import sjd2
        >>> model, processor = sjd2.demo.load()
        >>> inputs = processor(text=["a red ring"], generation_mode="image", return_tensors="pt")
        >>> _ = sjd2.accelerate(model, window=16).generate(**inputs, generation_mode="image")
        >>> stats = sjd2.decoding_stats(model)
        >>> stats.images, max(stats.accept_lengths[0]) <= 16
        (1, True)
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


def _hook(model: object) -> Accelerated | None:
    if not hasattr(model, "__dict__"):
        raise TypeError(f"model is a {type(model).__name__}, must be a transformers model")
    hook = vars(model).get("generate")
    return hook if isinstance(hook, Accelerated) else None
