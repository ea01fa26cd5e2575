"""A model by its name: found, read, checked, and given what turns words and pixels into tokens."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from sjd2.pictures.pipeline import ChameleonPipeline, Emu3Pipeline, JanusPipeline, Pipeline
from sjd2.pixels.vqgan import load_vq_decoder

DEMO = "demo"
VQ_DECODER = "vqgan.safetensors"  # beside the weights of a Chameleon, if it is there
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is a GPU where torch sees one.

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    # torch answers with an AssertionError where it was built without the device.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device {name!r} is not to be had here: {reason}") from error
    return device


def load(
    name: str,
    device: torch.device,
    size: tuple[int, int] | None = None,
    vq_decoder: str | Path | None = None,
) -> Pipeline:
    """A model with everything that it takes to draw captions.

    Args:
        name: "demo" (the embedded model), a folder as `save_pretrained` writes it, or a hub id such
            as "deepseek-community/Janus-Pro-1B". Pickled weights are refused: they can run code.
        device: where to put it.
        size: (width, height) of the pictures in pixels, where the family leaves a choice; None is
            its usual one.
        vq_decoder: weights that turn Chameleon's tokens into pixels, as `sjd2 convert` writes them;
            None looks for vqgan.safetensors in the model's folder.

    Returns:
        The pipeline; its model is in eval mode.

    Raises:
        ValueError: there is no such model, it is of a family that sjd2 does not know, its weights
            are damaged or incomplete, or it cannot draw pictures of that size.
    """
    if name == DEMO:
        from sjd2 import demo

        return _janus(*demo.load(device), size, vq_decoder)
    source = Path(name).expanduser()
    is_local = source.exists()
    if not is_local and not _HUB_ID.fullmatch(name):
        raise ValueError(
            f"model {name!r}: no such folder; allowed are 'demo', a folder, or a hub id like "
            "'deepseek-community/Janus-Pro-1B'"
        )
    if is_local and not (source / "config.json").is_file():
        raise ValueError(f"model {name!r}: must be a folder that holds config.json and the weights")
    try:
        model, processor, make = _load_pretrained(str(source) if is_local else name, is_local)
        beside = source / VQ_DECODER
        if vq_decoder is None and beside.is_file():
            vq_decoder = beside
        return make(model.to(device).eval(), processor, size, vq_decoder)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        refused = list(source.glob("*.bin")) + list(source.glob("*.pt")) if is_local else []
        pickles = "; pickled weights are refused, only safetensors are read" if refused else ""
        raise ValueError(f"model {name!r} cannot be loaded: {error}{pickles}") from error


def _load_pretrained(source: str, is_local: bool) -> tuple[Any, Any, _Make]:
    """A model, its processor, and what makes a pipeline of them."""
    kind = transformers.AutoConfig.from_pretrained(source, local_files_only=is_local).model_type
    if kind not in _KINDS:
        raise ValueError(f"its model_type is {kind!r}; sjd2 draws with {', '.join(_KINDS)}")
    name, make = _KINDS[kind]
    model, report = getattr(transformers, name).from_pretrained(
        source,
        dtype="auto",
        local_files_only=is_local,
        use_safetensors=True,
        output_loading_info=True,
    )
    # Upstream only warns of these, and draws with untrained weights.
    for problem in ("missing_keys", "mismatched_keys"):
        if keys := sorted(map(str, report.get(problem, ()))):
            raise ValueError(f"weights of another model: {len(keys)} {problem}, such as {keys[0]}")
    return model, _processor(source, is_local, kind), make


def _processor(source: str, is_local: bool, kind: str) -> Any:
    try:
        return transformers.AutoProcessor.from_pretrained(source, local_files_only=is_local)
    except OSError:
        if kind != "chameleon":
            raise
        # Lumina-mGPT is published with its tokenizer alone.
        return transformers.AutoTokenizer.from_pretrained(source, local_files_only=is_local)


def _janus(model: Any, processor: Any, size: _Size, vq_decoder: _File) -> Pipeline:
    if size is not None:
        raise ValueError("size: a Janus draws pictures of one size, its own")
    _refuse_decoder(vq_decoder)
    return JanusPipeline(model, processor)


def _emu3(model: Any, processor: Any, size: _Size, vq_decoder: _File) -> Pipeline:
    _refuse_decoder(vq_decoder)
    return Emu3Pipeline(model, processor, size)


def _chameleon(model: Any, processor: Any, size: _Size, vq_decoder: _File) -> Pipeline:
    if vq_decoder is None:
        raise ValueError(
            f"transformers has no decoder for its pictures: put {VQ_DECODER} into its folder or "
            "name it (--vq-decoder); `sjd2 convert vqgan.ckpt vqgan.safetensors` makes it"
        )
    decoder = load_vq_decoder(vq_decoder).to(model.device)
    return ChameleonPipeline(model, processor, decoder, size)


def _refuse_decoder(vq_decoder: _File) -> None:
    if vq_decoder is not None:
        raise ValueError(f"vq_decoder {str(vq_decoder)!r}: this model has a decoder of its own")


_Size = tuple[int, int] | None
_File = str | Path | None
_Make = Callable[[Any, Any, _Size, _File], Pipeline]
# model_type -> its class in transformers, and what makes a pipeline of such a model.
_KINDS: dict[str, tuple[str, _Make]] = {
    "janus": ("JanusForConditionalGeneration", _janus),
    "emu3": ("Emu3ForConditionalGeneration", _emu3),
    "chameleon": ("ChameleonForConditionalGeneration", _chameleon),
}
