"""A picture while it is being decoded."""

from __future__ import annotations

from collections.abc import Iterator
from queue import Empty, SimpleQueue
from threading import Event, Thread

import torch
from torch import Tensor

from sjd2.models import family_of
from sjd2.pictures.pipeline import Pipeline
from sjd2.placement import device_of
from sjd2.protocol import ImageModel, Request
from sjd2.sampler import Method, decode
from sjd2.sampler.state import DecodingState
from sjd2.sampler.watchers import Iteration
from sjd2.watch.trace import Trace

_NEVER = torch.iinfo(torch.int64).max

# The tokens that stand everywhere after a forward, drafts included, and how many were committed.
Step = tuple[Tensor, int]


def live(
    pipeline: Pipeline,
    caption: str,
    seed: int,
    method: Method,
    label: str,
    **sampling: float,
) -> Iterator[Trace]:
    """Draw one picture and show it as it becomes; decoding waits for nobody who looks.

    Args:
        pipeline: whose model draws; it is left as it was.
        caption: what to draw.
        seed: of the picture.
        method: how to decode.
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
    forwards = torch.full((1, request.geometry.length), _NEVER)
    lengths: list[int] = []
    for steps in _decoded(family, request, method, seed):
        for committed in filter(None, (committed for _, committed in steps)):
            # A GPU goes on for some forwards after the last token; they commit nothing.
            done = sum(lengths)
            lengths.append(committed)
            forwards[0, done : done + committed] = len(lengths)
        generated = request.finish(steps[-1][0][None].to(device_of(pipeline.model)))
        (picture,) = pipeline.pictures(generated)
        committed_at = pipeline.grid(forwards)[0].numpy().copy()
        yield Trace(label, picture, committed_at, tuple(lengths))


class _Steps:
    """A watcher that hands on every forward of a single picture, until nobody looks any more."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[Step | BaseException | None] = SimpleQueue()
        self.is_over = Event()

    def iteration(self, now: Iteration) -> None:
        """See `Watcher`."""
        self.queue.put(_step(now))

    def settled(self, state: DecodingState) -> bool:
        """See `Watcher`."""
        return not self.is_over.is_set()


def _decoded(
    family: ImageModel, request: Request, method: Method, seed: int
) -> Iterator[list[Step]]:
    """Whatever forwards were done since the last look, one at least."""
    steps = _Steps()
    thread = Thread(target=_run, args=(family, request, method, seed, steps), daemon=True)
    thread.start()
    try:
        while True:
            found = [steps.queue.get()]
            while found[-1] is not None:
                try:
                    found.append(steps.queue.get_nowait())
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
        steps.is_over.set()
        thread.join()


def _run(family: ImageModel, request: Request, method: Method, seed: int, steps: _Steps) -> None:
    try:
        decode(family, request, method, [seed], [steps])
    except Exception as error:  # raised where somebody looks
        steps.queue.put(error)
    steps.queue.put(None)


def _step(now: Iteration) -> Step:
    """What stands in the only picture once this forward is committed."""
    state, verdict = now.state, now.verdict
    tokens = state.standing()[0].clone()
    first, committed = int(state.position[0]), int(verdict.accept_length[0])
    tokens[first : first + committed] = verdict.tokens[0, :committed]
    return tokens[: state.length].cpu(), committed
