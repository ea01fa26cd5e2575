"""The decode loop: speculative Jacobi decoding of a batch of pictures.

One iteration, for every row of the batch at its own pace:

1. one causal forward feeds the window behind the cached prefix; each slot predicts a column;
2. verify left to right: drafts are kept with the probabilistic criterion, the first one that is not
   is recovered from the residual;
3. refine every unaccepted draft towards this forward's prediction;
4. slide: drop what was committed, let as many fresh drafts in, drawn from the law beside them;
5. a corrector, where there is one, re-drafts what is left beside its new neighbours;
6. method "sjd2" feeds drafts as noise at first: a denoising step brings each towards its token.

Steps 2 to 4 are one operation, `verify_window`; step 5 is `Correction.correct` and step 6 is
`Noise.advance`. Method "sjd" knows no noise, and "ar" is the same loop with one slot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sjd2.config import DecodingConfig
from sjd2.kernels import Rules, Verdict, verify_window
from sjd2.kernels._dispatch import select, using
from sjd2.kernels.reference.target import guide
from sjd2.models.adapter import Adapter, Gate
from sjd2.models.base import ImageModel, PlacedProcessor, Prompt, Request, Sampling
from sjd2.models.corrector import Corrector
from sjd2.sampler.correction import Correction
from sjd2.sampler.laws import keep_laws
from sjd2.sampler.noise import Trajectory
from sjd2.sampler.published import verify_as_published
from sjd2.sampler.state import DecodingState
from sjd2.sampler.stats import DecodingStats, Recorder

# On a GPU the host asks this seldom whether rows are finished, so as not to wait for the device.
_SETTLE_EVERY = 4


class Iteration(NamedTuple):
    """One pass of the loop, as it was before anything was committed."""

    state: DecodingState
    slots: Tensor  # [R, W, D], what was fed
    hidden: Tensor  # [R, W, D'], last hidden states
    logits: Tensor  # [R, W, V], or [B, W, V] where processors have run
    verdict: Verdict


@torch.no_grad()
def decode(
    model: ImageModel,
    request: Request,
    config: DecodingConfig,
    seeds: Sequence[int],
    adapter: Adapter | None = None,
    corrector: Corrector | None = None,
    observe: Callable[[Iteration], None] | None = None,
) -> tuple[Tensor, DecodingStats]:
    """Draw the pictures of a request.

    Args:
        model: the family behind its protocol.
        request: prompts and what is done to the logits.
        config: how to decode.
        seeds: one per picture. A picture depends on its prompt, its seed and the settings alone.
        adapter: what lets the model read noise; without one, drafts are tokens all along.
        corrector: re-drafts windows between forwards; without one, drafts stay as they were left.
        observe: is shown every iteration before it is committed; training learns from them.

    Returns:
        Image tokens, int64 [B, length], and what it took to draw them.

    RNG: counter-addressed by seed; no global generator is touched.
    Sync: on a GPU, one small read every few forwards.
    """
    started = time.perf_counter()
    prompt, sampling = request.prompt, request.sampling
    device = prompt.embeddings.device
    is_exact = config.exact or adapter is None
    backend = select(config.backend if is_exact else "eager", device)
    rules = rules_of(config, sampling)
    recorder = Recorder(len(seeds), trace=config.trace)
    settle_every = 1 if device.type == "cpu" else _SETTLE_EVERY
    bar = tqdm(total=len(seeds) * model.length, unit="tok", disable=not config.progress)
    denoising = nullcontext(Gate()) if adapter is None else adapter.attached(model.backbone)

    with using(backend), bar, denoising as gate:
        width = config.slots(model.length, device.type)
        # Before the first forward there is no neighbour to draw drafts from, so it feeds none.
        first = 1 if config.start == "neighbour" and is_exact else width
        trajectory = None
        if adapter is not None:
            steps, schedule = config.denoising_steps, config.schedule
            trajectory = Trajectory(steps, schedule, width, adapter, staggered=is_exact)
        table = model.embedding_table()
        state = DecodingState(model, prompt, list(seeds), table, width, first, trajectory)
        correction = None
        if corrector is not None and is_exact and width > 1:
            correction = Correction(corrector, table, model.grammar, rules, config.corrector_passes)
        first_slot = _prefill(model, prompt, state)
        while state.drawing:
            slots, noisy = state.inputs()
            gate.noisy = None if noisy is None else noisy.repeat(state.copies, 1)
            if state.iteration == 1:
                slots = torch.cat((first_slot, slots[:, 1:]), dim=1)
            hidden = _forward(model, slots, state)
            logits = raw = model.logits(hidden)
            if sampling.processors:
                logits = _process(raw, state, prompt, sampling)
            at: dict[str, Any] = {
                "seed": state.seed,
                "position": state.position,
                "iteration": state.iteration,
                "length": model.length,
                "grammar": model.grammar,
                "next_width": state.next_width,
            }
            if is_exact or state.noise is None:
                verdict = verify_window(logits, state.window, rules, noisy=noisy, **at)
            else:
                verdict = verify_as_published(logits, state.window, rules, state.noise, **at)
            recorder.record(state.rows, verdict)
            if request.laws:
                keep_laws(request.laws, state, verdict, raw, logits, rules, model.grammar)
            if observe is not None:
                observe(Iteration(state, slots, hidden, logits, verdict))
            if correction is not None:
                verdict = correction.correct(state, hidden, verdict)
            state.commit(verdict)
            if recorder.iterations % settle_every == 0:
                committed = state.settle()
                pace = committed / len(seeds) / recorder.iterations
                bar.set_postfix_str(f"{pace:.1f} tokens per forward", refresh=False)
                bar.update(committed - bar.n)
                follow = request.follow
                if follow is not None and not follow(state.tokens[:, : state.complete]):
                    break

    stats = recorder.stats(
        _method(config, adapter),
        backend.name,
        int(prompt.embeddings.shape[1] > 1),
        time.perf_counter() - started,
        is_corrected=correction is not None,
    )
    return state.tokens[:, : model.length], stats


def _method(config: DecodingConfig, adapter: Adapter | None) -> str:
    """The method by its name."""
    if config.method == "ar":
        return "ar"
    return "sjd" if adapter is None else "sjd2"


def rules_of(config: DecodingConfig, sampling: Sampling) -> Rules:
    """What the settings of the call and of the decoder come to."""
    rules = Rules(
        guidance_scale=1.0 if sampling.processors else sampling.guidance_scale,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        verify=config.verify if sampling.do_sample else "greedy",
        coupling=config.coupling,
        start=config.start,
    )
    # Token by token there is nothing to verify, and same-seed noise makes it the twin of "gumbel".
    is_sequential = config.method == "ar" and sampling.do_sample
    return replace(rules, verify="gumbel") if is_sequential else rules


def _prefill(model: ImageModel, prompt: Prompt, state: DecodingState) -> Tensor:
    """Cache the prompts but for their last token, the first window's slot 0: [R, 1, D]."""
    width = prompt.embeddings.shape[1] - 1
    if width:
        _forward(model, prompt.embeddings[:, :width], state)
        state.cache.advance(prompt.lengths - 1)
    rows = torch.arange(prompt.embeddings.shape[0], device=prompt.lengths.device)
    return prompt.embeddings[rows, prompt.lengths - 1].unsqueeze(1)


def _forward(model: ImageModel, slots: Tensor, state: DecodingState) -> Tensor:
    """Feed slots [R, W, D] behind every row's prefix; their last hidden states."""
    positions, mask = state.cache.open_window(slots.shape[1])
    return model.hidden(slots, positions, mask, state.cache)


def _process(logits: Tensor, state: DecodingState, prompt: Prompt, sampling: Sampling) -> Tensor:
    """Run the user's logits processors on every column, each behind its own prefix.

    A processor sees what it sees in transformers: rows of (prompt, committed tokens, drafts before
    the column), padded on the left, and the guided logits of that column.

    Sync: reads how long the longest prefix is; processors are host code anyway.
    """
    guided = guide(logits, sampling.guidance_scale)
    prompts = prompt.ids[state.rows]
    drawn = state.standing()
    if prompt.vocabulary is not None:
        drawn = prompt.vocabulary[drawn]
    texts = torch.cat((prompts, drawn), dim=1)
    ends = prompts.shape[1] + state.columns()
    longest = int(ends.max())
    at = torch.arange(longest, device=ends.device) - longest + ends[..., None]
    rows = torch.arange(len(texts), device=ends.device)[:, None, None]
    prefixes = torch.where(at >= 0, texts[rows, at.clamp(min=0)], prompt.pad_id).flatten(0, 1)
    scores = guided.flatten(0, 1)
    places = (state.rows[:, None].expand_as(state.columns()).flatten(), state.columns().flatten())
    for processor in sampling.processors:
        if isinstance(processor, PlacedProcessor):
            scores = processor.placed(prefixes, scores, *places)
        else:
            scores = processor(prefixes, scores)
    return scores.view_as(guided)
