"""From captions to pictures: check the captions, draw them in one call, judge them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from sjd2.demo import DEMO
from sjd2.patching import decoding_stats, installed
from sjd2.pictures.pipeline import Pipeline
from sjd2.sampler import DecodingStats, Method

EXAMPLE = "a red ring above a blue square"


@dataclass(frozen=True)
class Drawing:
    """The pictures of one call of `generate`, caption after caption.

    Attributes:
        captions: one per picture.
        seeds: one per picture.
        pictures: RGB.
        tokens: int64 [pictures, length], on the CPU.
        stats: of the call.
    """

    captions: tuple[str, ...]
    seeds: tuple[int, ...]
    pictures: tuple[Image.Image, ...]
    tokens: Tensor
    stats: DecodingStats


def check_captions(pipeline: Pipeline, captions: Sequence[str]) -> None:
    """Refuse captions that the model was not taught.

    A processor that knows better than its tokenizer has a method `check_captions(captions)`, which
    raises a ValueError. For all others, those with words unknown to the tokenizer are refused.

    Raises:
        ValueError: names the words and the nearest known ones, or the nearest caption that works.
    """
    if check := getattr(pipeline.processor, "check_captions", None):
        check(captions)
        return
    tokenizer = pipeline.tokenizer
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
            raise ValueError(f"caption {caption!r}: this model does not know {named}")


def _with_nearest(word: str, vocabulary: Sequence[str]) -> str:
    close = difflib.get_close_matches(word.lower(), vocabulary, n=1)
    return f"{word!r} (did you mean {close[0]!r}?)" if close else repr(word)


@torch.no_grad()
def draw(
    pipeline: Pipeline,
    captions: Sequence[str],
    seeds: Sequence[int],
    method: Method,
    **sampling: float,
) -> Drawing:
    """Draw every caption once with every seed, all in one call of `generate`.

    Args:
        pipeline: whose model draws; it is left as it was.
        captions: what to draw.
        seeds: of the pictures of each caption. A picture depends on its caption and its seed, not
            on its neighbours (but a window of "auto" follows from how many there are).
        method: how to decode.
        **sampling: `guidance_scale`, `temperature`, `top_k`, `top_p`; the others are those of the
            model's generation config.

    Returns:
        The pictures and the stats of the call.

    Raises:
        ValueError: a setting or a caption that the model cannot take, before any forward.
    """
    model = pipeline.model
    with installed(model, method):
        generated = model.generate(
            **pipeline.inputs(captions),
            generation_mode="image",
            do_sample=True,
            num_return_sequences=len(seeds),
            seed=[*seeds] * len(captions),
            **sampling,
        )
        stats = decoding_stats(model)
    return Drawing(
        captions=tuple(caption for caption in captions for _ in seeds),
        seeds=tuple(seed for _ in captions for seed in seeds),
        pictures=tuple(pipeline.pictures(generated)),
        tokens=pipeline.tokens(generated).cpu(),
        stats=stats,
    )


def verdicts(model_name: str, drawing: Drawing) -> list[bool | None]:
    """Whether each picture shows its caption; None without a checker that can say.

    Args:
        model_name: as given to `load`; only the embedded model has a checker.
        drawing: what it drew.
    """
    if model_name != DEMO:
        return [None] * len(drawing.pictures)
    from sjd2.demo.checker import check

    judged: list[bool | None] = []
    for picture, caption in zip(drawing.pictures, drawing.captions, strict=True):
        try:
            judged.append(check(picture, caption).passed)
        except ValueError:  # known words, but no description of a scene
            judged.append(None)
    return judged
