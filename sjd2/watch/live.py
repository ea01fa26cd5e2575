"""A picture while it is being decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

import torch
from torch import Tensor, nn

from sjd2.config import DecodingConfig, seeds_for
from sjd2.models import family_of
from sjd2.models.base import ImageModel, Request
from sjd2.pictures.pipeline import Pipeline
from sjd2.sampler import decode
from sjd2.sampler.decode import Iteration
from sjd2.watch.trace import Trace

_NEVER = torch.iinfo(torch.int64).max

# The tokens that stand everywhere after a forward, drafts included, and how many were committed.
Step = tuple[Tensor, int]


class _Stopped(Exception):  # noqa: N818  (no error: nobody is looking any more)
    pass


def live(
    pipeline: Pipeline,
    caption: str,
    seed: int,
    config: DecodingConfig,
    companions: Mapping[str, nn.Module | None],
    label: str,
    **sampling: float,
) -> Iterator[Trace]:
    """Draw one picture and show it as it becomes; decoding waits for nobody who looks.

    Args:
        pipeline: whose model draws; it is left as it was.
        caption: what to draw.
        seed: of the picture.
        config: how to decode.
        companions: "adapter" and "corrector" to decode with.
        label: of the traces.
        **sampling: `guidance_scale`, `temperature`, `top_k`, `top_p`.

    Yields:
        The picture as it stands, not necessarily after every forward, and in the end as it is.
        Tokens that are not committed show their drafts, and a forward that is never reached.

    Raises:
        ValueError: a setting or a caption that the model cannot take, before any forward.

    RNG: counter-addressed by seed; no global generator is touched.
    """
    family = family_of(pipeline.model)
    inputs = pipeline.inputs([caption])
    request = family.request(**inputs, generation_mode="image", do_sample=True, **sampling)
    if request is None:
        raise ValueError("this model cannot be accelerated with these settings")
    forwards = torch.full((1, family.length), _NEVER)
    lengths: list[int] = []
    for steps in _decoded(family, request, config, seed, companions):
        for committed in filter(None, (committed for _, committed in steps)):
            # A GPU goes on for some forwards after the last token; they commit nothing.
            done = sum(lengths)
            lengths.append(committed)
            forwards[0, done : done + committed] = len(lengths)
        generated = request.finish(steps[-1][0][None].to(pipeline.model.device))
        (picture,) = pipeline.pictures(generated)
        committed_at = pipeline.grid(forwards)[0].numpy().copy()
        yield Trace(label, picture, committed_at, tuple(lengths))


def _decoded(
    family: ImageModel,
    request: Request,
    config: DecodingConfig,
    seed: int,
    companions: Mapping[str, nn.Module | None],
) -> Iterator[list[Step]]:
    """Whatever forwards were done since the last look, one at least."""
    steps: SimpleQueue[Step | BaseException | None] = SimpleQueue()
    is_over = Event()

    def note(iteration: Iteration) -> None:
        if is_over.is_set():
            raise _Stopped
        steps.put(_step(iteration, family.length))

    thread = Thread(
        target=_run, args=(family, request, config, seed, companions, note, steps.put), daemon=True
    )
    thread.start()
    try:
        while True:
            found = [steps.get()]
            while found[-1] is not None:
                try:
                    found.append(steps.get_nowait())
                except Empty:
                    break
            for one in found:
                if isinstance(one, BaseException):
                    raise one
            done = [one for one in found if isinstance(one, tuple)]
            if done:
                yield done
            if found[-1] is None:
                return
    finally:
        is_over.set()
        thread.join()


def _run(
    family: ImageModel,
    request: Request,
    config: DecodingConfig,
    seed: int,
    companions: Mapping[str, nn.Module | None],
    note: Callable[[Iteration], None],
    tell: Callable[[BaseException | None], None],
) -> None:
    denoises = config.method in ("auto", "sjd2")
    adapter: Any = companions.get("adapter") if denoises else None
    corrector: Any = companions.get("corrector")
    try:
        decode(family, request, config, seeds_for(seed, 1), adapter, corrector, note)
    except _Stopped:
        return
    except Exception as error:  # raised where somebody looks
        tell(error)
    tell(None)


def _step(iteration: Iteration, length: int) -> Step:
    """What stands in the only picture once this forward is committed."""
    state, verdict = iteration.state, iteration.verdict
    tokens = state.standing()[0].clone()
    first, committed = int(state.position[0]), int(verdict.accept_length[0])
    tokens[first : first + committed] = verdict.tokens[0, :committed]
    return tokens[:length].cpu(), committed
