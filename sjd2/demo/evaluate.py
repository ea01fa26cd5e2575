"""How well a model draws what captions say: token by token, judged by the picture checker."""

from collections.abc import Sequence

import torch
from PIL import Image
from transformers import JanusForConditionalGeneration, JanusProcessor

from sjd2.demo.captions import COLOUR_NAMES, FORMS, SHAPES, with_article
from sjd2.demo.checker import check
from sjd2.demo.scenes import held_out_captions
from sjd2.pixels.picture import picture_of
from sjd2.progress import Progress


def draw(
    model: JanusForConditionalGeneration,
    processor: JanusProcessor,
    captions: Sequence[str],
    guidance: float,
    seed: int,
    top_k: int = 0,
    batch: int = 50,
) -> list[Image.Image]:
    """One picture per caption by transformers' own `generate`, at temperature 1.

    Args:
        model: Janus on its device.
        processor: its processor.
        captions: the prompts.
        guidance: scale; 1 is none.
        seed: of the sampling.
        top_k: how many of the likeliest codes to draw from; 0 is all.
        batch: captions drawn together.
    Returns:
        list of PIL images, 96 x 96.

    RNG: torch's global generators, left as they were found.
    """
    drawn: list[Image.Image] = []
    what = f"drawing at guidance {guidance}"
    with (
        Progress(what, "pictures", len(captions)) as progress,
        torch.random.fork_rng(),
        torch.no_grad(),
    ):
        torch.manual_seed(seed)
        for i in range(0, len(captions), batch):
            inputs = processor(
                text=list(captions[i : i + batch]),
                generation_mode="image",
                padding=True,
                return_tensors="pt",
            ).to(model.device)
            codes = model.generate(
                **inputs,
                generation_mode="image",
                do_sample=True,
                guidance_scale=guidance,
                top_k=top_k,
            )
            drawn += [picture_of(model, processor, tokens) for tokens in codes]
            progress.update(len(drawn))
    return drawn


def pass_rate(
    model: JanusForConditionalGeneration,
    processor: JanusProcessor,
    captions: Sequence[str],
    guidance: float,
    seed: int,
    top_k: int = 0,
) -> float:
    """The fraction of captions whose picture the checker passes; arguments as in `draw`."""
    return sum(passes(model, processor, captions, guidance, seed, top_k)) / len(captions)


def passes(
    model: JanusForConditionalGeneration,
    processor: JanusProcessor,
    captions: Sequence[str],
    guidance: float,
    seed: int,
    top_k: int = 0,
) -> list[bool]:
    """Whether the checker passes the picture of each caption; arguments as in `draw`."""
    pictures = draw(model, processor, captions, guidance, seed, top_k)
    return [check(p, caption).passed for p, caption in zip(pictures, captions, strict=True)]


def captions_by_form(of_each: int, seed: int = 0) -> dict[str, list[str]]:
    """Held-out captions of every form, and single objects as one would type them first.

    Args:
        of_each: captions of a form.
        seed: of the scenes that they are taken from.
    Returns:
        dict: by name in `FORMS`; under "every object" "a red ring" and so on, each colour of each
        shape twice, held out or not.
    """
    forms = {form: held_out_captions(of_each, seed, form) for form in FORMS}
    every = [with_article(f"{colour} {shape}") for colour in COLOUR_NAMES for shape in SHAPES]
    return {**forms, "every object": 2 * every}
