"""The decode loop: speculative Jacobi decoding of a batch of pictures.

One iteration, for every row of the batch at its own pace:

1. one causal forward feeds the window behind the cached prefix; each slot predicts a column;
2. verify left to right: drafts are kept with the probabilistic criterion, the first one that is not
   is recovered from the residual;
3. refine every unaccepted draft towards this forward's prediction;
4. slide: drop what was committed, let as many fresh drafts in, drawn beside their neighbour;
5. a corrector, where there is one, re-drafts what is left beside its new neighbours;
6. method "sjd2" feeds drafts as noise at first: a denoising step brings each towards its token.

Steps 2 to 4 are one operation, `verify_window`. What differs between methods (where drafts come
from, what decides them, what re-drafts them) is in the `Method`; "ar" is the same loop with one
slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from sjd2.kernels.target.eager import guide
from sjd2.protocol import ImageModel, PlacedProcessor, Request, positions_of
from sjd2.sampler.graphs import Run
from sjd2.sampler.logprobs import LogProbs, LogProbsChoice, checked_choice
from sjd2.sampler.method import Method, Redraft
from sjd2.sampler.state import DecodingState
from sjd2.sampler.stats import Account, DecodingStats
from sjd2.sampler.watchers import CommittedTokens, Follower, Iteration, Watcher


@torch.no_grad()
def decode(
    model: ImageModel,
    request: Request,
    method: Method,
    seeds: Sequence[int],
    watchers: Sequence[Watcher] = (),
    logprobs: LogProbsChoice = False,
) -> tuple[Tensor, DecodingStats]:
    """Draw the pictures of a request.

    Args:
        model: the family behind its protocol.
        request: prompts, the pictures' geometry, and what is done to the logits.
        method: how to decode; see `resolve`.
        seeds: one per picture. A picture depends on its prompt, its seed and the settings alone.
        watchers: see every iteration before it is committed, and may end the drawing.
        logprobs: True keeps the log-probability of every committed token, "both" also that of the
            model's own distribution; see `DecodingStats`.

    Returns:
        Image tokens, int64 [B, length], and what it took to draw them.

    RNG: counter-addressed by seed; no global generator is touched.
    Sync: on a GPU, one small read every few forwards.
    """
    account = Account(request.images, trace=method.config.trace)
    watching = [account, *_own_watchers(model, request, method), *watchers]
    likely = LogProbs(checked_choice(logprobs), request.images)
    if logprobs:
        watching.append(likely)
    with method.begun(model, request, seeds) as state:
        draw(model, state, method, method.redrafting(state), watching)
    length = request.geometry.length
    collected = likely.of(slice(None), length)
    # A copy: where iterations are replayed, the next call draws into the same table.
    return state.tokens[:, :length].clone(), account.stats(method, state, collected)


def draw(
    model: ImageModel,
    state: DecodingState,
    method: Method,
    redraft: Redraft,
    watching: Sequence[Watcher],
) -> None:
    """Iterate until all pictures of a state are drawn, or a watcher ends it."""
    hidden = prefill(model, state)
    run = method.run(partial(predict, model, state, method), state, redraft)
    while state.drawing:
        iterate(run, watching, hidden)
        hidden = None
        if state.is_due:
            state.settle()
            if not all(watch.settled(state) for watch in watching):
                break


def iterate(run: Run, watching: Sequence[Watcher], hidden: Tensor | None = None) -> None:
    """One iteration; `hidden` is what a forward of the prompts has found of it already."""
    now = run.predict(hidden)
    for watch in watching:
        watch.iteration(now)
    run.commit(now)  # 5 and 6


def predict(
    model: ImageModel, state: DecodingState, method: Method, hidden: Tensor | None = None
) -> Iteration:
    """An iteration up to its verdict; `hidden` as for `iterate`."""
    slots = state.feed()  # 1
    if hidden is None:
        hidden = forward(model, slots.embeddings, state)
    raw = model.logits(hidden)
    logits = process(raw, state)
    verdict = method.rule(logits, state, slots)  # 2 to 4
    return Iteration(state, slots, hidden, raw, logits, verdict)


def _own_watchers(model: ImageModel, request: Request, method: Method) -> list[Watcher]:
    """Those that the call itself asks for."""
    watchers: list[Watcher] = []
    if method.config.progress:
        watchers.append(CommittedTokens(request.images * request.geometry.length))
    if request.follow is not None:
        watchers.append(Follower(request, model.vocab_size))
    return watchers


def prefill(model: ImageModel, state: DecodingState) -> Tensor | None:
    """Cache the prompts. Slot 0 of the first window is a prompt's last token.

    Returns:
        Where that slot is the whole first window, this forward is the first already: its hidden
        states [R, 1, D]. None where the window has drafts, and is still to be fed.
    """
    prompt, ends = state.prompt, state.prompt.lengths - 1
    width = prompt.embeddings.shape[1] - (state.width > 1)
    if not width:
        return None
    hidden = forward(model, prompt.embeddings[:, :width], state)
    state.cache.truncate(ends)
    if state.width > 1:
        state.prefill_passes += 1
        return None
    return hidden[torch.arange(len(ends), device=ends.device), ends].unsqueeze(1)


def forward(model: ImageModel, slots: Tensor, state: DecodingState) -> Tensor:
    """Feed slots [R, W, D] behind every row's prefix; their last hidden states."""
    entries, mask = state.cache.open_window(slots.shape[1])
    # Slots behind the picture stand where it ends: a model may look at how far its positions go.
    entries = entries.minimum(state.last_entry[:, None])
    return model.hidden(slots, positions_of(state.positions, entries), mask, state.cache)


def process(logits: Tensor, state: DecodingState) -> Tensor:
    """Run the user's logits processors on every column, each behind its own prefix.

    A processor sees what it sees in transformers: rows of (prompt, committed tokens, drafts before
    the column), padded on the left, and the guided logits of that column.

    Returns:
        The logits as they are where there is no processor, else the guided scores [B, W, V].

    Sync: reads how long the longest prefix is; processors are host code anyway.
    """
    prompt, sampling = state.prompt, state.sampling
    if not sampling.processors:
        return logits
    guided = guide(logits, sampling.guidance_scale)
    prompts = state.ids[state.rows]
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
