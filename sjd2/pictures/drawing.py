"""From captions to pictures: load a model by name, check the captions, draw them in one call."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from sjd2.config import DecodingConfig
from sjd2.models.pixels import picture_of
from sjd2.patching import accelerated, decoding_stats
from sjd2.sampler import DecodingStats

DEMO = "demo"
EXAMPLE = "a red ring above a blue square"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class Drawing:
    """The pictures of one call of `generate`, caption after caption.

    Attributes:
        captions: one per picture.
        seeds: one per picture.
        pictures: RGB.
        tokens: int64 [pictures, length], on the CPU.
        stats: what it took.
    """

    captions: tuple[str, ...]
    seeds: tuple[int, ...]
    pictures: tuple[Image.Image, ...]
    tokens: Tensor
    stats: DecodingStats


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


def load(name: str, device: torch.device) -> tuple[Any, Any]:
    """A model and its processor.

    Args:
        name: "demo" (the embedded model), a folder as `save_pretrained` writes it, or a hub id such
            as "deepseek-community/Janus-Pro-1B". Pickled weights are refused: they can run code.
        device: where to put it.

    Returns:
        The model in eval mode and its processor.

    Raises:
        ValueError: there is no such model, it is of a family that sjd2 does not know, or its
            weights are damaged or incomplete.
    """
    if name == DEMO:
        from sjd2 import demo

        return demo.load(device)
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
        return _load_pretrained(str(source) if is_local else name, is_local, device)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        refused = list(source.glob("*.bin")) + list(source.glob("*.pt")) if is_local else []
        pickles = "; pickled weights are refused, only safetensors are read" if refused else ""
        raise ValueError(f"model {name!r} cannot be loaded: {error}{pickles}") from error


def _load_pretrained(source: str, is_local: bool, device: torch.device) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoProcessor, JanusForConditionalGeneration

    kind = AutoConfig.from_pretrained(source, local_files_only=is_local).model_type
    if kind != JanusForConditionalGeneration.config_class.model_type:
        raise ValueError(f"its model_type is {kind!r}; sjd2 draws with 'janus'")
    model, report = JanusForConditionalGeneration.from_pretrained(
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
    processor = AutoProcessor.from_pretrained(source, local_files_only=is_local)
    return model.to(device).eval(), processor


def check_captions(processor: Any, captions: Sequence[str]) -> None:
    """Refuse captions with words that the model would read as "unknown".

    Raises:
        ValueError: names the words, the nearest known ones and a caption that works.
    """
    tokenizer = processor.tokenizer
    unknown_id = tokenizer.unk_token_id
    for caption in captions:
        words = re.findall(r"\w+|[^\w\s]+", caption)
        unknown = [
            word
            for word in dict.fromkeys(words)
            if unknown_id in tokenizer(word, add_special_tokens=False)["input_ids"]
        ]
        if unknown:
            vocabulary = [word for word in tokenizer.get_vocab() if word.isalpha()]
            named = ", ".join(_with_nearest(word, vocabulary) for word in unknown)
            hint = "" if _knows_no(tokenizer, EXAMPLE) else f"; it knows e.g. {EXAMPLE!r}"
            raise ValueError(f"caption {caption!r}: this model does not know {named}{hint}")


def _with_nearest(word: str, vocabulary: Sequence[str]) -> str:
    close = difflib.get_close_matches(word.lower(), vocabulary, n=1)
    return f"{word!r} (did you mean {close[0]!r}?)" if close else repr(word)


def _knows_no(tokenizer: Any, caption: str) -> bool:
    return tokenizer.unk_token_id in tokenizer(caption)["input_ids"]


@torch.no_grad()
def draw(
    model: Any,
    processor: Any,
    captions: Sequence[str],
    seeds: Sequence[int],
    config: DecodingConfig,
    companions: Mapping[str, Any] | None = None,
    **sampling: float,
) -> Drawing:
    """Draw every caption once with every seed, all in one call of `generate`.

    Args:
        model: of a supported family; it is left as it was.
        processor: its processor.
        captions: what to draw.
        seeds: of the pictures of each caption, so that a picture depends on its caption and its
            seed, not on its neighbours.
        config: how to decode.
        companions: `adapter` and `corrector`, as `accelerate` takes them.
        **sampling: `guidance_scale`, `temperature`, `top_k`, `top_p`; what is left out is as in the
            model's generation config.

    Returns:
        The pictures and their account.

    Raises:
        ValueError: a setting or a caption that the model cannot take, before any forward.
        OSError: there is no adapter in the folder.
    """
    inputs = prompt_inputs(model, processor, captions)
    with accelerated(model, config, **(companions or {})):
        tokens = model.generate(
            **inputs,
            generation_mode="image",
            do_sample=True,
            num_return_sequences=len(seeds),
            seed=[*seeds] * len(captions),
            **sampling,
        )
        stats = decoding_stats(model)
    pictures = [picture_of(model, processor, row) for row in tokens]
    return Drawing(
        captions=tuple(caption for caption in captions for _ in seeds),
        seeds=tuple(seed for _ in captions for seed in seeds),
        pictures=tuple(pictures),
        tokens=tokens.cpu(),
        stats=stats,
    )


def prompt_inputs(model: Any, processor: Any, captions: Sequence[str]) -> Any:
    """What `generate` takes of the captions: a mapping of tensors, on the model's device."""
    return processor(
        text=[prompt_of(processor, caption) for caption in captions],
        generation_mode="image",
        return_tensors="pt",
        padding=True,
    ).to(model.device)


def prompt_of(processor: Any, caption: str) -> str:
    """The caption as the model was trained to be asked: through its chat template if it has one."""
    if not getattr(processor, "chat_template", None):
        return caption
    turn = {"role": "user", "content": [{"type": "text", "text": caption}]}
    prompt: str = processor.apply_chat_template([turn], add_generation_prompt=True)
    return prompt


def verdicts(model_name: str, drawing: Drawing) -> list[bool | None]:
    """Whether each picture shows its caption; None where no checker can tell.

    Args:
        model_name: as given to `load`; the checker reads pictures of the embedded model only.
        drawing: what it drew.
    """
    if model_name != DEMO:
        return [None] * len(drawing.pictures)
    from sjd2.demo.checker import check

    judged: list[bool | None] = []
    for picture, caption in zip(drawing.pictures, drawing.captions, strict=True):
        try:
            judged.append(check(picture, caption).passed)
        except ValueError:  # known words in an order that says nothing the checker understands
            judged.append(None)
    return judged
