"""Model families, each behind the protocol of `protocol.py`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from sjd2.protocol import ImageModel

# Class in transformers -> where its family is. A family is imported when its model is at hand:
# importing all of transformers' model code would take seconds of everybody's time.
_FAMILIES = {
    "ChameleonForConditionalGeneration": ("sjd2.models.chameleon", "Chameleon"),
    "Emu3ForConditionalGeneration": ("sjd2.models.emu3", "Emu3"),
    "GlmImageForConditionalGeneration": ("sjd2.models.glm_image", "GlmImage"),
    "JanusForConditionalGeneration": ("sjd2.models.janus", "Janus"),
}


class Registration(NamedTuple):
    """What is known of a registered class of models.

    Attributes:
        family: makes an `ImageModel` of an instance.
        pipeline: makes a `Pipeline` of an instance and its processor, or None.
    """

    family: Callable[[Any], ImageModel]
    pipeline: Callable[..., Any] | None = None


_REGISTERED: dict[type, Registration] = {}


def register_family(
    model_class: type,
    family: Callable[[Any], ImageModel],
    pipeline: Callable[..., Any] | None = None,
) -> None:
    """Let `accelerate` take a class of models that sjd2 does not know (see docs/own-family.md).

    Args:
        model_class: its instances, and those of classes derived from it, are taken. Registered
            classes come before sjd2's own; registering one again replaces its family.
        family: makes an `ImageModel` of such an instance, such as a subclass of
            `sjd2.models.decoder.DecoderOnly`. It is called for every drawing and must be cheap.
        pipeline: makes a `sjd2.pictures.pipeline.Pipeline` of such an instance and its processor
            (its tokenizer where it has no processor), such as a subclass of `SequencePipeline`.
            With it the commands draw with these models. It gets `size=` and `vq_decoder=` if
            its parameters have these names.

    Raises:
        TypeError: the first is no class, or one of the others cannot be called.

    Example: a class of one's own that draws as Emu3 does.

        >>> import sjd2
        >>> from transformers import Emu3ForConditionalGeneration
        >>> from sjd2.models.emu3 import Emu3
        >>> class MyModel(Emu3ForConditionalGeneration): ...
        >>> sjd2.register_family(MyModel, Emu3)
    """
    if not isinstance(model_class, type) or not callable(family):
        raise TypeError("register_family: takes a class of models, and what makes its family")
    if pipeline is not None and not callable(pipeline):
        raise TypeError(f"register_family: pipeline={pipeline!r}: must be callable or None")
    _REGISTERED[model_class] = Registration(family, pipeline)


def registered_class(name: str) -> type | None:
    """The registered class of this name, the last one if there are several; None without one."""
    found = [known for known in _REGISTERED if known.__name__ == name]
    return found[-1] if found else None


def registration_of(model_class: type) -> Registration | None:
    """What was registered for a class or, if nothing, for its nearest ancestor."""
    known = (_REGISTERED.get(ancestor) for ancestor in model_class.__mro__)
    return next(filter(None, known), None)


def family_of(model: Any) -> ImageModel:
    """The family of a transformers model.

    Args:
        model: an instance of a supported class, wrapped by peft or not.

    Returns:
        The model behind the `ImageModel` protocol.

    Raises:
        TypeError: no family is known for the class of the model, or peft feeds it prompts that
            it learned.
        ValueError: a family cannot take this very model.
    """
    model = inner_model(model)
    for ancestor in type(model).__mro__:
        if ancestor in _REGISTERED:
            return _REGISTERED[ancestor].family(model)
        if ancestor.__name__ in _FAMILIES and ancestor.__module__.startswith("transformers."):
            module, name = _FAMILIES[ancestor.__name__]
            family: ImageModel = getattr(import_module(module), name)(model)
            return family
    supported = ", ".join([*_FAMILIES, *(known.__name__ for known in _REGISTERED)])
    raise TypeError(
        f"model is a {type(model).__name__}; sjd2 accelerates {supported} and what "
        "sjd2.register_family adds"
    )


def inner_model(model: Any) -> Any:
    """The transformers model in a wrapper of peft's, whose layers act in it; else the model.

    Raises:
        TypeError: the wrapper feeds the model a prompt that it learned, which no layer knows of.
    """
    unwrap = getattr(type(model), "get_base_model", None)
    if unwrap is None:
        return model
    if model.active_peft_config.is_prompt_learning:
        kind = model.active_peft_config.peft_type
        raise TypeError(f"model: peft's {kind} puts a learned prompt before every call")
    return unwrap(model)


__all__ = [
    "ImageModel",
    "Registration",
    "family_of",
    "inner_model",
    "register_family",
    "registered_class",
    "registration_of",
]
