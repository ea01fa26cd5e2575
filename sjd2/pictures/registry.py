"""Which class a saved model has, and what makes a pipeline of it.

Families of `sjd2.register_family` come before those that sjd2 brings.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from sjd2.models import registered_class, registration_of
from sjd2.pictures.pipeline import ChameleonPipeline, Emu3Pipeline, JanusPipeline, Pipeline
from sjd2.pixels.vqgan import load_vq_decoder
from sjd2.placement import device_of

VQ_DECODER = "vqgan.safetensors"  # beside the weights of a Chameleon, if it is there


def class_of(config: Mapping[str, Any]) -> type:
    """The class of a model, by what its config.json holds.

    Raises:
        ValueError: no pipeline is known for it.
    """
    for name in config.get("architectures") or ():
        if found := registered_class(name):
            if has_pipeline(found):
                return found
            raise ValueError(f"{name} was registered without a pipeline; see sjd2.register_family")
    # Not its architectures: original checkpoints name classes that transformers does not have.
    kind = config.get("model_type", "")
    name = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(kind)
    if name not in _BUILT_IN:
        known = ", ".join(_BUILT_IN)
        raise ValueError(f"its model_type is {kind!r}; sjd2 draws with {known}")
    model_class: type = getattr(transformers, name)
    return model_class


def has_pipeline(model_class: type) -> bool:
    """Whether a pipeline can be made for instances of the class."""
    return _maker_of(model_class) is not None


def takes_tokenizer(model_class: type) -> bool:
    """Whether a tokenizer will do where a model was saved without a processor."""
    # Lumina-mGPT is published with its tokenizer alone.
    return registration_of(model_class) is not None or _name_of(model_class).startswith("Chameleon")


def make_pipeline(
    model: Any,
    processor: Any,
    size: tuple[int, int] | None = None,
    vq_decoder: str | Path | None = None,
) -> Pipeline:
    """A model and its processor as a pipeline.

    Args:
        model: an instance of a class that has a pipeline.
        processor: of the model; its tokenizer if `takes_tokenizer`.
        size, vq_decoder: as `load` takes them.

    Raises:
        ValueError: the class has no pipeline, or its pipeline does not take an option.
    """
    make = _maker_of(type(model))
    if make is None:
        raise ValueError(f"no pipeline is registered for {type(model).__name__}")
    options = {"size": size, "vq_decoder": vq_decoder}
    given = {name: value for name, value in options.items() if value is not None}
    for name in given.keys() - inspect.signature(make).parameters.keys():
        raise ValueError(f"{name}={given[name]!r}: not an option of {type(model).__name__}")
    pipeline: Pipeline = make(model, processor, **given)
    return pipeline


def _maker_of(model_class: type) -> Callable[..., Pipeline] | None:
    registration = registration_of(model_class)
    if registration and registration.pipeline:
        return registration.pipeline
    return _BUILT_IN.get(_name_of(model_class))


def _name_of(model_class: type) -> str:
    """The built-in class that it is or derives from."""
    names = (ancestor.__name__ for ancestor in model_class.__mro__)
    return next((name for name in names if name in _BUILT_IN), "")


def _janus(model: Any, processor: Any, size: _Size = None, vq_decoder: _File = None) -> Pipeline:
    if size is not None:
        raise ValueError("size: a Janus draws pictures of one size, its own")
    refuse_decoder(vq_decoder)
    return JanusPipeline(model, processor)


def _emu3(model: Any, processor: Any, size: _Size = None, vq_decoder: _File = None) -> Pipeline:
    refuse_decoder(vq_decoder)
    return Emu3Pipeline(model, processor, size)


def _chameleon(
    model: Any, processor: Any, size: _Size = None, vq_decoder: _File = None
) -> Pipeline:
    if vq_decoder is None:
        raise ValueError(
            f"transformers has no decoder for its pictures: put {VQ_DECODER} into its folder or "
            "name it (--vq-decoder); `sjd2 convert vqgan.ckpt vqgan.safetensors` makes it"
        )
    decoder = load_vq_decoder(vq_decoder).to(device_of(model))
    return ChameleonPipeline(model, processor, decoder, size)


def refuse_decoder(vq_decoder: _File) -> None:
    """Raises ValueError where a decoder is given to a model that has its own."""
    if vq_decoder is not None:
        raise ValueError(f"vq_decoder {str(vq_decoder)!r}: this model has a decoder of its own")


_Size = tuple[int, int] | None
_File = str | Path | None
# By the name of the class: importing transformers' model code takes seconds.
_BUILT_IN: dict[str, Callable[..., Pipeline]] = {
    "JanusForConditionalGeneration": _janus,
    "Emu3ForConditionalGeneration": _emu3,
    "ChameleonForConditionalGeneration": _chameleon,
}
