"""Any number of captions, drawn by a queue: each picture is handed over as soon as it is there.

What a picture is depends on its caption, its seed and the settings. Its seed follows from its id,
so neither the order of captions nor who draws them matters: any number of processes, or the same
captions once more after a crash, give the same pictures.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image
from torch import Tensor

from sjd2.models import family_of, inner_model
from sjd2.pictures.drawing import EXAMPLE, check_captions
from sjd2.pictures.pipeline import Pipeline
from sjd2.placement import bring, device_of
from sjd2.protocol import Request
from sjd2.sampler import Method
from sjd2.sampler.logprobs import LogProbsChoice
from sjd2.sampler.queue import Drawn, QueueStats, decode_queue


def picture_seed(seed: int, name: str) -> int:
    """The seed of the picture with this id: a stable hash of both, in [0, 2^63).

    It is the same on every machine, in every process and in any order of pictures.

    Args:
        seed: of the whole.
        name: the picture's id.
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True)
class Wanted:
    """A picture to be drawn.

    Attributes:
        id: its name.
        caption: what it shows.
        seed: of the picture.
    """

    id: str
    caption: str
    seed: int


@dataclass(frozen=True)
class Finished:
    """A picture that was drawn.

    Attributes:
        wanted: what was asked for.
        picture: RGB.
        tokens: int64 [length], on the CPU, as the model's `generate` returns them.
        forward_passes: window forwards (NFE) until its last token was committed.
        seconds: from its taking a row to its being finished, others beside it.
        logprobs, model_logprobs: float32 [length], where they were asked for; see `decode_queue`.
    """

    wanted: Wanted
    picture: Image.Image
    tokens: Tensor
    forward_passes: int
    seconds: float
    logprobs: Tensor | None = None
    model_logprobs: Tensor | None = None


def draw_many(
    pipeline: Pipeline,
    wanted: Iterable[Wanted],
    method: Method,
    rows: int,
    finished: Callable[[Finished], object],
    *,
    logprobs: LogProbsChoice = False,
    **sampling: Any,
) -> QueueStats:
    """Draw captions by a queue over a fixed number of rows.

    Args:
        pipeline: whose model draws; it is left as it was.
        wanted: taken one by one as rows get free, so there may be any number of them.
        method: how to decode.
        rows: pictures drawn at a time, at least 1.
        finished: called with every picture, in the order in which they are finished.
        logprobs: as for `decode_queue`.
        **sampling: `guidance_scale`, `temperature`, `top_k`, `top_p`, `logits_processor`; the
            others are those of the model's generation config.

    Returns:
        What it took.

    Raises:
        ValueError: a setting or a caption that the model cannot take; two pictures with one id in
            drawing at once.

    RNG: counter-addressed by the pictures' seeds; no global generator is touched.
    """
    family = family_of(pipeline.model)
    bring(inner_model(pipeline.model))
    flying: dict[int, tuple[Wanted, Request, float]] = {}

    def requests() -> Iterator[tuple[Request, int]]:
        for number, one in enumerate(wanted):
            check_captions(pipeline, [one.caption])
            if any(one.id == other.id for other, _, _ in flying.values()):
                raise ValueError(f"id {one.id!r}: there are two pictures of this name")
            request = family.request(
                **pipeline.inputs([one.caption]),
                generation_mode="image",
                do_sample=True,
                **sampling,
            )
            if request is None:
                raise ValueError("this model cannot be accelerated with these settings")
            flying[number] = one, request, time.perf_counter()
            yield request, one.seed

    def hand_over(drawn: Drawn) -> None:
        one, request, began = flying.pop(drawn.number)
        # A pipeline may paint what it was asked for last: other captions have been since.
        pipeline.inputs([one.caption])
        generated = request.finish(drawn.tokens[None].to(device_of(pipeline.model)))
        (picture,) = pipeline.pictures(generated)
        finished(
            Finished(
                wanted=one,
                picture=picture,
                tokens=pipeline.tokens(generated)[0].cpu(),
                forward_passes=drawn.forward_passes,
                seconds=time.perf_counter() - began,
                logprobs=drawn.logprobs,
                model_logprobs=drawn.model_logprobs,
            )
        )

    return decode_queue(family, requests(), method, rows, hand_over, logprobs=logprobs)


def settled(pipeline: Pipeline, method: Method, rows: int, **sampling: Any) -> Method:
    """The method with a window of "auto" made a number, so that settings say what is drawn.

    A window of one slot has no number: there "auto" stays.

    Args:
        pipeline, method, rows, **sampling: as for `draw_many`.

    Raises:
        ValueError: a setting that the model cannot take.
    """
    config = method.config
    if method.name == "ar" or config.window != "auto":
        return method
    request = family_of(pipeline.model).request(
        **pipeline.inputs([EXAMPLE]), generation_mode="image", do_sample=True, **sampling
    )
    if request is None:
        raise ValueError("this model cannot be accelerated with these settings")
    fed = rows * len(request.prompt.embeddings)
    window = config.slots(request.geometry.length, device_of(pipeline.model).type, fed)
    return replace(method, config=replace(config, window=window)) if window > 1 else method


def settings_of(method: Method, **others: Any) -> dict[str, Any]:
    """What pictures depend on beside caption and seed, as plain values.

    Args:
        method: its window a number.
        **others: the model's name and the like, and what is done to the logits; None is left out.
    """
    config = method.config
    known: dict[str, Any] = {name: value for name, value in others.items() if value is not None}
    known["method"] = method.name
    if method.name == "ar":
        return known
    names = ["window", "verify", "coupling", "start", "exact"]
    names += ["denoising_steps", "schedule"] * (method.name == "sjd2")
    names += ["corrector_passes"] * method.is_corrected
    return known | {name: getattr(config, name) for name in names}
