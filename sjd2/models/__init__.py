"""Model families, each behind the protocol of `models/base.py`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sjd2.models.base import ImageModel

# Class in transformers -> where its family is. A family is imported when its model is at hand:
# importing all of transformers' model code would take seconds of everybody's time.
_FAMILIES = {"JanusForConditionalGeneration": ("sjd2.models.janus", "Janus")}


def family_of(model: Any) -> ImageModel:
    """The family of a transformers model.

    Args:
        model: an instance of a supported class.

    Returns:
        The model behind the `ImageModel` protocol.

    Raises:
        TypeError: no family is known for the class of the model.
    """
    for ancestor in type(model).__mro__:
        if ancestor.__name__ in _FAMILIES and ancestor.__module__.startswith("transformers."):
            module, name = _FAMILIES[ancestor.__name__]
            family: ImageModel = getattr(import_module(module), name)(model)
            return family
    supported = ", ".join(_FAMILIES)
    raise TypeError(f"model is a {type(model).__name__}; sjd2 accelerates {supported}")


__all__ = ["ImageModel", "family_of"]
