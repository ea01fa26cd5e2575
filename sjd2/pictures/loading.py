"""A pipeline from the name of a model: found, read, checked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers.utils import cached_file

from sjd2.demo import DEMO
from sjd2.pictures.pipeline import Pipeline
from sjd2.pictures.registry import (
    VQ_DECODER,
    class_of,
    make_pipeline,
    refuse_decoder,
    takes_tokenizer,
)

_INDEX = "model_index.json"  # what a saved pipeline of diffusers begins with
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is a GPU if torch sees one.

    Raises:
        ValueError: the device is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    # torch answers with an AssertionError where it was built without the device.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device {name!r} is not available: {reason}") from error
    return device


def choose_dtype(name: str | torch.dtype) -> torch.dtype:
    """The floating dtype of that name.

    Raises:
        ValueError: there is none.
    """
    found = getattr(torch, name, None) if isinstance(name, str) else name
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype={name!r}: must be a floating dtype such as 'bfloat16'")
    return found


def load(
    name: str,
    device: torch.device,
    size: tuple[int, int] | None = None,
    vq_decoder: str | Path | None = None,
    dtype: str | torch.dtype | None = None,
) -> Pipeline:
    """A model with everything needed to draw captions.

    Args:
        name: "demo" (the embedded model), a folder as `save_pretrained` writes it, or a hub id such
            as "deepseek-community/Janus-Pro-1B". Pickled weights are refused: they can run code.
        device: where to put it.
        size: (width, height) of the pictures in pixels, where the family leaves a choice; None is
            its usual one.
        vq_decoder: weights that turn Chameleon's tokens into pixels, as `sjd2 convert` writes them;
            None looks for vqgan.safetensors in the model's folder.
        dtype: of the weights, such as "bfloat16"; None is that of the files.

    Returns:
        The pipeline; its model is in eval mode.

    Raises:
        ValueError: no such model, or one of an unknown family; weights that are damaged or
            incomplete; a size that the model cannot draw.
    """
    wanted = None if dtype is None else choose_dtype(dtype)
    if name == DEMO:
        from sjd2 import demo

        model, processor = demo.load(device)
        return make_pipeline(model.to(wanted or model.dtype), processor, size, vq_decoder)
    source = Path(name).expanduser()
    is_local = source.exists()
    if not is_local and not _HUB_ID.fullmatch(name):
        raise ValueError(
            f"model {name!r}: no such folder; allowed are 'demo', a folder, or a hub id like "
            "'deepseek-community/Janus-Pro-1B'"
        )
    if is_local and not any((source / file).is_file() for file in ("config.json", _INDEX)):
        raise ValueError(f"model {name!r}: must be a folder that holds config.json and the weights")
    try:
        named = str(source) if is_local else name
        if _is_pipeline(name, is_local):
            from sjd2.pictures.diffusion import load_pipeline

            refuse_decoder(vq_decoder)
            return load_pipeline(named, device, size, is_local, wanted)
        model, processor = _load_pretrained(named, is_local, wanted or "auto")
        beside = source / VQ_DECODER
        if vq_decoder is None and beside.is_file():
            vq_decoder = beside
        return make_pipeline(model.to(device).eval(), processor, size, vq_decoder)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        refused = list(source.glob("*.bin")) + list(source.glob("*.pt")) if is_local else []
        pickles = "; pickled weights are refused, only safetensors are read" if refused else ""
        raise ValueError(f"model {name!r} cannot be loaded: {error}{pickles}") from error


def _is_pipeline(name: str, is_local: bool) -> bool:
    """Whether a folder or a hub id is a pipeline of diffusers."""
    if is_local:
        return (Path(name).expanduser() / _INDEX).is_file()
    index = cached_file(name, _INDEX, _raise_exceptions_for_missing_entries=False)
    return index is not None


def _load_pretrained(source: str, is_local: bool, dtype: torch.dtype | str) -> tuple[Any, Any]:
    """A model and its processor."""
    config, _ = transformers.PretrainedConfig.get_config_dict(source, local_files_only=is_local)
    model_class: Any = class_of(config)
    model, report = model_class.from_pretrained(
        source,
        dtype=dtype,
        local_files_only=is_local,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are refused below, by name
    )
    # Upstream only warns about these, and draws with untrained weights.
    for problem in ("missing_keys", "mismatched_keys"):
        keys = sorted(key if isinstance(key, str) else key[0] for key in report.get(problem, ()))
        if model_class.__name__ == "ChameleonForConditionalGeneration":
            # Lumina-mGPT is published without the encoder, which drawing does not need.
            keys = [key for key in keys if not key.startswith("model.vqmodel.")]
            if problem == "mismatched_keys" and any("_norm." in key for key in keys):
                raise ValueError(
                    f"its {keys[0]} has a row for every device of the training, as Lumina-mGPT's "
                    "published checkpoints do; `sjd2 convert` makes a folder of it that loads"
                )
        if keys:
            raise ValueError(f"weights of another model: {len(keys)} {problem}, such as {keys[0]}")
    return model, _load_processor(source, is_local, model_class)


def _load_processor(source: str, is_local: bool, model_class: type) -> Any:
    try:
        return transformers.AutoProcessor.from_pretrained(source, local_files_only=is_local)
    except OSError:
        if not takes_tokenizer(model_class):
            raise
        return transformers.AutoTokenizer.from_pretrained(source, local_files_only=is_local)
