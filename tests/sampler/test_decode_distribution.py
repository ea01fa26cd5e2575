"""The real sampler on a model that can be enumerated: chi-square of whole pictures.

Thousands of rows go through one call, each at its own pace, so accept lengths differ in every
iteration. `test_a_row_alone_equals_the_row_in_a_batch` carries the result to any batch size; the
slow tests sample at batch 1, 2 and 4 themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sjd2.config import DecodingConfig
from sjd2.kernels import DraftKind, Verdict, Window
from sjd2.kernels.philox import Stream
from sjd2.kernels.verify_window.eager import PhiloxDraws
from sjd2.protocol import Sampling
from sjd2.sampler import decode, resolve
from sjd2.sampler.drafts import Slots
from sjd2.sampler.method import Rule, verify
from sjd2.sampler.state import DecodingState
from tests.table_model import TableModel, excess_of_pictures, make_request

PROMPT = (2, 3, 1)
FREE = Sampling(True)


def draw(
    model: TableModel,
    sampling: Sampling,
    config: DecodingConfig,
    seeds: Sequence[int],
    prompts: Sequence[Sequence[int]] | None = None,
    rule: Rule = verify,
) -> Tensor:
    request = make_request(model, prompts or [PROMPT] * len(seeds), sampling)
    tokens, stats = decode(model, request, replace(resolve(config), rule=rule), seeds)
    assert all(sum(lengths) == model.length for lengths in stats.accept_lengths)
    return tokens


def excess(model: TableModel, sampling: Sampling, tokens: Tensor, sees: float = 0.09) -> float:
    """Chi-square of pictures as a multiple of its threshold: above 1 they are biased.

    20 000 pictures of 81 outcomes show a bias of 9 % of a probability in the mean.
    """
    target = model.picture_probabilities(PROMPT, sampling)
    return excess_of_pictures(tokens, target, model.vocab_size, sees)


CONFIGS = {
    "maximal": {},
    "independent": {"coupling": "independent"},
    "uniform-starts": {"start": "uniform"},
    "one-hot-starts": {"start": "repeat"},
    "gumbel": {"verify": "gumbel"},
    "ar": {"method": "ar"},
}
STRENGTHS = [0.25, 0.7, 3.0]
SAMPLINGS = {
    "free": (FREE, None),
    "top-k": (replace(FREE, top_k=2), None),
    "top-p-warm": (replace(FREE, top_p=0.8, temperature=1.5), None),
    "guidance": (replace(FREE, guidance_scale=2.5), None),
    "grammar": (FREE, {1: 2, 3: 0}),
}


@pytest.mark.parametrize("window", [2, 3, 8])
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("name", CONFIGS)
def test_pictures_follow_the_target_distribution(name: str, sampling: str, window: int) -> None:
    """Kills: a lost redraw, filtering the residual again, guidance halves swapped, a window of 8
    that commits behind a picture of 4, a mask that shows a stale entry.
    """
    settings, grammar = SAMPLINGS[sampling]
    model = TableModel(grammar=grammar)
    config = DecodingConfig(window=window, **CONFIGS[name])
    tokens = draw(model, settings, config, range(20_000))
    assert excess(model, settings, tokens) < 1


@pytest.mark.parametrize("sharpness", STRENGTHS)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * ("starts" in name)) for name in CONFIGS],
)
def test_pictures_follow_distributions_that_are_flat_or_sharp(name: str, sharpness: float) -> None:
    """Kills: what hides where all tokens are as likely, or one is certain."""
    model = TableModel(sharpness=sharpness)
    tokens = draw(model, FREE, DecodingConfig(window=3, **CONFIGS[name]), range(20_000))
    assert excess(model, FREE, tokens) < 1


def of_longer_pictures(coupling: str, rule: Rule = verify) -> float:
    model = TableModel(vocab_size=5, length=5, sharpness=1.5)
    config = DecodingConfig(window=3, coupling=coupling)
    tokens = draw(model, FREE, config, range(60_000), rule=rule)
    return excess(model, FREE, tokens)


@pytest.mark.parametrize("coupling", ["maximal", "independent"])
def test_longer_pictures_over_a_larger_vocabulary_follow_the_distribution(coupling: str) -> None:
    """Kills: a distribution read at the wrong offset once a window has slid more than its own
    width.
    """
    assert of_longer_pictures(coupling) < 1


@pytest.mark.parametrize("name", CONFIGS)
def test_a_row_alone_equals_the_row_in_a_batch(name: str) -> None:
    """Kills: lockstep batches, a cut of the window that moves a draw, randomness by row number."""
    model = TableModel(length=9)
    config = DecodingConfig(window=4, **CONFIGS[name])
    prompts = [PROMPT[: 1 + row % 3] for row in range(60)]
    guided = replace(FREE, guidance_scale=2.0)
    together = draw(model, guided, config, range(60), prompts)
    for size in (1, 2, 4):
        for first in range(0, 60, 12):
            rows = slice(first, first + size)
            alone = draw(model, guided, config, range(60)[rows], prompts[rows])
            assert torch.equal(alone, together[rows])


def of_small_batches(batch: int, rule: Rule = verify, **settings: str) -> float:
    model = TableModel()
    config = DecodingConfig(window=3, **settings)
    pictures = [
        draw(model, FREE, config, range(first, first + batch), rule=rule)
        for first in range(0, 4000 * batch, batch)
    ]
    return excess(model, FREE, torch.cat(pictures), sees=0.21 / batch**0.5)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("name", ["maximal", "independent"])
def test_small_batches_follow_the_distribution(name: str, batch: int) -> None:
    """Kills: whatever only a batch of one, two or four takes part in."""
    assert of_small_batches(batch, **CONFIGS[name]) < 1


# --- Known-bad rules: each is in some release, and each must fail what the rules above pass.


def old_distribution_kept(logits: Tensor, state: DecodingState, slots: Slots) -> Verdict:
    """Coupled tokens keep the distribution that they were first drawn from: uniform."""
    verdict = verify(logits, state, slots)
    kinds = torch.full_like(verdict.window.kinds, int(DraftKind.UNIFORM))
    return verdict._replace(window=verdict.window._replace(kinds=kinds))


def lockstep(logits: Tensor, state: DecodingState, slots: Slots) -> Verdict:
    """A batch advances by its slowest row; what was accepted beyond is tested again, old `q`."""
    verdict, window = verify(logits, state, slots), state.window
    pairs = verdict.accept_length.view(-1, 2)
    slowest = torch.where(pairs > 0, pairs, pairs.max()).amin(dim=1, keepdim=True)
    length = torch.minimum(pairs, slowest).flatten()
    source = torch.arange(window.tokens.shape[1]) + length[:, None]
    inside = source < window.tokens.shape[1]
    at_old = source.clamp(max=window.tokens.shape[1] - 1)
    kept_row = inside & (source < verdict.accept_length[:, None])
    tokens = torch.where(inside, verdict.tokens.gather(1, at_old), verdict.window.tokens)
    rows = torch.arange(len(length))[:, None]
    uniform = torch.tensor(1 / logits.shape[-1]).log()
    stored = (at_old + window.offset[:, None]).clamp(max=window.draft_logits.shape[1] - 1)
    old = torch.where(
        window.kinds.gather(1, at_old)[..., None] == DraftKind.UNIFORM,
        uniform,
        window.draft_logits[rows, stored],
    )
    target = torch.where(kept_row[..., None], old, verdict.window.draft_logits[rows, at_old])
    kinds = torch.where(inside, int(DraftKind.FULL), int(DraftKind.UNIFORM)).to(torch.uint8)
    last = verdict.tokens.gather(1, (length - 1).clamp(min=0)[:, None])
    slots = torch.cat((last, tokens), dim=1)
    slid = Window(slots, kinds, target, torch.zeros_like(length))
    return verdict._replace(accept_length=length, window=slid)


def half_retained(logits: Tensor, state: DecodingState, slots: Slots) -> Verdict:
    """The published SJD2 rule: an unaccepted draft stays if its ratio is at least one half."""
    verdict, window = verify(logits, state, slots), state.window
    width = window.tokens.shape[1]
    stored = (torch.arange(width) + window.offset[:, None]).clamp(
        max=window.draft_logits.shape[1] - 1
    )
    rows = torch.arange(len(stored))[:, None]
    log_q = window.draft_logits[rows, stored, window.tokens]
    log_q = torch.where(window.kinds == DraftKind.UNIFORM, -torch.tensor(3.0).log(), log_q)
    log_p = verdict.window.draft_logits.gather(-1, window.tokens[..., None]).squeeze(-1)
    behind = torch.arange(width) >= verdict.accept_length[:, None]
    stays = behind & (log_p - log_q >= torch.tensor(0.5).log())
    tokens = torch.where(stays, window.tokens, verdict.tokens)
    source = torch.arange(width) + verdict.accept_length[:, None]
    moved = torch.where(
        source < width, tokens.gather(1, source.clamp(max=width - 1)), verdict.window.tokens
    )
    slots = torch.cat((verdict.window.slots[:, :1], moved), dim=1)
    return verdict._replace(tokens=tokens, window=verdict.window._replace(slots=slots))


@pytest.mark.parametrize(
    ("rule", "sharpness"),
    [
        *((old_distribution_kept, sharpness) for sharpness in STRENGTHS),
        # Where distributions are nearly flat or one-hot, these are off by less than 9 %.
        *((lockstep, sharpness) for sharpness in (0.7, 3.0)),
        (half_retained, 0.7),
    ],
)
def test_chi_square_has_the_power_to_see_a_published_bias(rule: Rule, sharpness: float) -> None:
    """Kills: a statistic that passes anything; rows that never differ."""
    model, config = TableModel(sharpness=sharpness), DecodingConfig(window=3, start="uniform")
    tokens = draw(model, FREE, config, range(20_000), rule=rule)
    assert excess(model, FREE, tokens) > 1


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_chi_square_has_the_power_to_see_a_bias_of_any_sampling(sampling: str) -> None:
    """Kills: guidance, filters or a grammar that leave nothing to see."""
    settings, grammar = SAMPLINGS[sampling]
    model, config = TableModel(grammar=grammar), DecodingConfig(window=3, start="uniform")
    tokens = draw(model, settings, config, range(20_000), rule=old_distribution_kept)
    assert excess(model, settings, tokens) > 1


@pytest.mark.slow
def test_longer_pictures_have_the_power_to_see_a_published_bias() -> None:
    """Kills: so many outcomes that none is expected often enough."""
    assert of_longer_pictures("maximal", old_distribution_kept) > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "rule"), [(1, old_distribution_kept), (2, lockstep), (4, lockstep)]
)
def test_small_batches_have_the_power_to_see_a_published_bias(batch: int, rule: Rule) -> None:
    """Kills: too few pictures."""
    assert of_small_batches(batch, rule, start="uniform") > 1


def test_chi_square_has_the_power_to_see_shared_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A residual drawn with the noise that its draft was drawn with is biased.

    Kills: a stream or an iteration left out of the counter.
    """
    choose = PhiloxDraws.choose

    def shared(self: PhiloxDraws, target: Tensor, rows: Tensor, cols: Tensor, _: Stream) -> Tensor:
        return choose(PhiloxDraws(self.seed, self.position, 0), target, rows, cols, Stream.DRAFT)

    monkeypatch.setattr(PhiloxDraws, "choose", shared)
    model = TableModel()
    config = DecodingConfig(window=3, coupling="independent")
    assert excess(model, FREE, draw(model, FREE, config, range(60_000))) > 1
