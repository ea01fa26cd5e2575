"""Model families, each behind the protocol of `models/base.py`."""

from __future__ import annotations

from typing import Any

from transformers import JanusForConditionalGeneration

from sjd2.models.base import ImageModel
from sjd2.models.janus import Janus

_FAMILIES = {JanusForConditionalGeneration: Janus}


def family_of(model: Any) -> ImageModel:
    """The family of a transformers model.

    Args:
        model: an instance of a supported class.

    Returns:
        The model behind the `ImageModel` protocol.

    Raises:
        TypeError: no family is known for the class of the model.
    """
    for model_class, family in _FAMILIES.items():
        if isinstance(model, model_class):
            return family(model)
    supported = ", ".join(known.__name__ for known in _FAMILIES)
    raise TypeError(f"model is a {type(model).__name__}; sjd2 accelerates {supported}")


__all__ = ["ImageModel", "family_of"]
