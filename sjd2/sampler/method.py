"""A method as a value: settings and companions, resolved once into what the loop plugs in.

To decode differently, replace a part; the loop asks for nothing else. `bench/peers/` brings the
rules of published decoders this way. Here, one that keeps a record:

>>> from dataclasses import replace
>>> import sjd2
>>> from sjd2.patching import install
>>> from sjd2.sampler.method import resolve, verify
>>> lengths = []
>>> def recorded(logits, state, slots):
...     verdict = verify(logits, state, slots)
...     lengths.append(verdict.accept_length.tolist())
...     return verdict
>>> model, processor = sjd2.demo.load()
>>> model = install(model, replace(resolve(sjd2.DecodingConfig()), rule=recorded))
>>> inputs = processor(text=["a red ring"], generation_mode="image", return_tensors="pt")
>>> tokens = model.generate(**inputs, generation_mode="image")
>>> sum(length for (length,) in lengths) == tokens.shape[1]
True
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from torch import Tensor

from sjd2.companions import Companions
from sjd2.companions.corrector import Corrector
from sjd2.config import DecodingConfig
from sjd2.kernels import Rules, Verdict, verify_window
from sjd2.kernels._dispatch import select, using
from sjd2.placement import is_offloaded
from sjd2.protocol import ImageModel, Request, Sampling
from sjd2.sampler.correction import Correction
from sjd2.sampler.drafts import Drafts, Slots, TokenDrafts, token_drafts
from sjd2.sampler.graphs import Graphs, Loop, Run
from sjd2.sampler.noise import noisy_drafts
from sjd2.sampler.published import verify_as_published
from sjd2.sampler.state import DecodingState
from sjd2.sampler.watchers import Iteration

# What the slots of a window are fed, for the length of a call.
DraftSource = Callable[[ImageModel, DecodingState], AbstractContextManager[Drafts]]
# (logits [R, W, V], state, slots) -> what becomes of every column of the window.
Rule = Callable[[Tensor, DecodingState, Slots], Verdict]
# What becomes of the drafts between two forwards: the verdict, by now committed, with another next
# window. The state's is still the one that was fed.
Redraft = Callable[[Iteration], Verdict]


def verify(logits: Tensor, state: DecodingState, slots: Slots) -> Verdict:
    """The exact rule: `verify_window`."""
    return verify_window(logits, state.window, state.rules, noisy=slots.noisy, **state.place)


def keep(now: Iteration) -> Verdict:
    """Drafts stay as the rule has left them."""
    return now.verdict


def no_redrafting(state: DecodingState) -> Redraft:
    """Nothing happens between forwards."""
    return keep


@dataclass(frozen=True)
class Method:
    """One way to decode.

    Attributes:
        name: "sjd2", "sjd" or "ar".
        config: the settings that it was resolved from.
        backend: of the operations.
        drafts: what the slots are fed: tokens, or tokens on their way out of noise.
        rule: what decides the columns of a window.
        redrafting: makes of a call's state what re-drafts its windows between forwards.
        graphs: what records iterations and replays them; None launches each anew.
    """

    name: Literal["sjd2", "sjd", "ar"]
    config: DecodingConfig
    backend: Literal["auto", "triton", "eager"] = "auto"
    drafts: DraftSource = token_drafts
    rule: Rule = verify
    redrafting: Callable[[DecodingState], Redraft] = no_redrafting
    graphs: Graphs | None = None

    def run(
        self,
        forward: Callable[[Tensor | None], Iteration],
        state: DecodingState,
        redraft: Redraft,
    ) -> Run:
        """What runs the iterations of a call; see `Loop` for the arguments.

        The prompts are cached by now: they are of any width, windows of one.
        """
        if self.config.compile:
            compile_forwards(state)
        loop = Loop(forward, state, redraft)
        if self.graphs is None:
            return loop
        # What it holds is moved onto the tensors of a recording where it says what that is.
        holder = getattr(redraft, "__self__", None)
        is_known = redraft is keep or hasattr(holder, "READ_BY_ITERATIONS")
        obstacle = "a rule or re-drafting of your own may keep values on the host"
        return self.graphs.run(loop, None if self.rule is verify and is_known else obstacle)

    @property
    def is_corrected(self) -> bool:
        """Whether something re-drafts windows between forwards."""
        return self.redrafting is not no_redrafting

    @contextmanager
    def begun(
        self, model: ImageModel, request: Request, seeds: Sequence[int], images: int | None = None
    ) -> Iterator[DecodingState]:
        """The state of a call before its first forward; inside the block the backend is set.

        Args:
            model, request, seeds: as for `decode`.
            images: drawn at a time, as far as settings of "auto" go; None is those of the request.
        """
        backend = select(self.backend, request.prompt.embeddings.device)
        with using(backend):
            state = self._state(model, request, seeds, images or request.images, backend.name)
            with self.drafts(model, state) as state.drafts:
                yield state

    def _state(
        self,
        model: ImageModel,
        request: Request,
        seeds: Sequence[int],
        images: int,
        backend: str,
    ) -> DecodingState:
        rows = images * len(request.prompt.embeddings) // request.images
        device = request.prompt.embeddings.device.type
        width = self.config.slots(request.geometry.length, device, rows)
        # Before the first forward there is no neighbour to draw drafts from, so it feeds none.
        first = 1 if self.config.start == "neighbour" and self.config.exact else width
        rules = rules_of(self.config, request.sampling)
        return DecodingState(model, request, list(seeds), rules, width, first, backend)


def compile_forwards(state: DecodingState) -> None:
    """Let the forwards of a state's windows be compiled, or say why they are not."""
    obstacle = None
    if not isinstance(state.drafts, TokenDrafts):
        obstacle = "an adapter acts on the layers"
    elif is_offloaded(state.model.backbone):
        obstacle = "the weights are brought to the device by hooks"
    if obstacle is None:
        state.cache.is_compiled = True
        state.fix()
    else:
        warnings.warn(f"compile=True: {obstacle}; forwards are not compiled", stacklevel=8)


def resolve(config: DecodingConfig, companions: Companions | None = None) -> Method:
    """The method that settings and companions come to.

    Args:
        config: the settings.
        companions: the adapter and the corrector at hand; None for neither.

    Raises:
        ValueError: the method needs an adapter, and there is none.
    """
    companions = companions or Companions()
    adapter, corrector = companions.adapter, companions.corrector
    graphs = Graphs() if config.cuda_graphs else None
    if config.method == "ar":
        return Method("ar", config, config.backend, graphs=graphs)
    if adapter is None and (config.method == "sjd2" or not config.exact):
        wanted = "method 'sjd2'" if config.method == "sjd2" else "exact=False"
        raise ValueError(
            f"{wanted}: needs a denoising adapter; the model carries none, and none was named"
        )
    if adapter is not None and config.method == "auto" and config.exact:
        # One that was found beside the model is used where it measured faster. That was measured
        # without a corrector, with which noise is the slower start (docs/ablation.md).
        is_wanted = companions.adapter_is_named or (corrector is None and adapter.is_faster)
        adapter = adapter if is_wanted else None
    if adapter is None or config.method == "sjd":
        method = Method("sjd", config, config.backend, graphs=graphs)
    else:
        drafts = partial(
            noisy_drafts,
            adapter=adapter,
            steps=config.denoising_steps,
            schedule=config.schedule,
            staggered=config.exact,
        )
        method = Method("sjd2", config, config.backend, drafts, graphs=graphs)
    if not config.exact:
        return replace(method, backend="eager", rule=verify_as_published)
    if corrector is not None:
        redrafting = partial(correcting, corrector=corrector, config=config)
        method = replace(method, redrafting=redrafting)
    return method


def correcting(state: DecodingState, corrector: Corrector, config: DecodingConfig) -> Redraft:
    """A corrector re-drafts what is left of a window beside its new neighbours."""
    return Correction(state, corrector, config.passes(state.rows.device.type)).correct


def rules_of(config: DecodingConfig, sampling: Sampling) -> Rules:
    """What turns logits into the target distribution, and how drafts are verified."""
    verification = config.verify if sampling.do_sample else "greedy"
    if config.method == "ar" and sampling.do_sample:
        # Token by token there is nothing to verify: the noise of same-seed mode makes it the twin.
        verification = "gumbel"
    return Rules(
        # Where processors run, guidance comes before them.
        guidance_scale=1.0 if sampling.processors else sampling.guidance_scale,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        verify=verification,
        coupling=config.coupling,
        start=config.start,
    )
