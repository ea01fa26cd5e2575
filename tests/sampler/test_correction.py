"""Correctors move drafts: whatever they have learned, what is committed stays the model's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import sjd2
from sjd2.companions import Companions
from sjd2.companions.corrector import Corrector, neighbour_offsets
from sjd2.config import DecodingConfig
from sjd2.kernels import Verdict
from sjd2.protocol import Sampling
from sjd2.sampler import correction, decode, resolve
from sjd2.sampler.correction import Correction
from sjd2.sampler.watchers import Iteration, OnIteration
from tests import statistics
from tests.janus_model import draw
from tests.sampler.test_denoising import Unmoved, loud_adapter
from tests.table_model import TableModel, excess_of_pictures, make_request

PROMPT = (2, 3, 1)
FREE = Sampling(True)
RANK = 5


class Wild(Corrector):
    """Random weights of any norm; reads the table model's states, which are numbers.

    At a standard deviation of 3 corrected distributions are nearly one-hot, at 0.25 they hardly
    move, and in between it shows what random numbers they are drawn with.
    """

    def __init__(self, model: TableModel, strength: float = 3.0) -> None:
        torch.manual_seed(0)
        offsets = neighbour_offsets(model.geometry.row_width)
        super().__init__(offsets, model.symbols, 2, model.vocab_size, RANK, "none")
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter, std=strength)

    def read(self, hidden: Tensor, images: int) -> Tensor:
        codes = (hidden[:images] % 17).float(), (hidden[-images:] % 5).float()
        return self.state(torch.stack(codes, dim=-1))


def excess(
    rows: int,
    batch: int = 0,
    sampling: Sampling = FREE,
    grammar: Any = None,
    adapter: Any = None,
    strength: float = 3.0,
    **options: Any,
) -> float:
    """Chi-square of corrected pictures as a multiple of its threshold.

    20 000 pictures of 81 outcomes see a bias of 9 % of a probability in the mean, 2 000 one
    of 29 %.
    """
    model = TableModel(grammar=grammar)
    corrector = Wild(model, strength)
    companions = Companions(adapter, corrector)
    method = resolve(DecodingConfig(**options), companions)
    drawn, forwards = [], 0
    for first in range(0, rows, batch or rows):
        seeds = range(first, min(first + (batch or rows), rows))
        request = make_request(model, [PROMPT] * len(seeds), sampling)
        tokens, stats = decode(model, request, method, seeds)
        forwards += sum(stats.forward_passes)
        drawn.append(tokens)
    assert forwards < rows * model.length
    target = model.picture_probabilities(PROMPT, sampling)
    return excess_of_pictures(torch.cat(drawn), target, 3, sees=0.09 * (20_000 / rows) ** 0.5)


@pytest.mark.parametrize(
    ("window", "passes", "options"),
    [
        pytest.param(3, 1, {}, id="one-pass"),
        pytest.param(8, 3, {}, id="three-passes"),
        pytest.param(4, "sweep", {}, id="sweep"),
        pytest.param(4, 2, {"coupling": "independent"}, id="independent"),
        pytest.param(4, 2, {"start": "uniform"}, id="uniform"),
        pytest.param(4, 2, {"start": "repeat"}, id="one-hot"),
        pytest.param(4, 2, {"verify": "gumbel"}, id="gumbel"),
    ],
)
def test_corrected_pictures_follow_the_target_distribution(
    window: int, passes: Any, options: dict[str, Any]
) -> None:
    """Kills: a draft labelled with another distribution than it has, neighbours that are still
    unknown.
    """
    assert excess(20_000, window=window, corrector_passes=passes, **options) < 1


@pytest.mark.parametrize("passes", [2, "sweep"])
def test_corrections_read_the_picture_as_far_as_it_is_committed(
    passes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the forward's place for what it was fed, behind the window's for what it is now.

    Kills: a window that is corrected where the last one stood; tokens that stand there by chance.
    """
    read: list[tuple[str, int, Tensor]] = []
    for name, at in (("activate_window", 1), ("correct_window", 4)):
        original = getattr(correction, name)

        def seen(
            *args: Any, name: str = name, at: int = at, original: Any = original, **given: Any
        ):
            read.append((name, int(given["position"]), args[at][given["rows"]][0].clone()))
            return original(*args, **given)

        monkeypatch.setattr(correction, name, seen)
    model = TableModel(length=9)
    method = resolve(
        DecodingConfig(window=4, corrector_passes=passes), Companions(None, Wild(model, 0.3))
    )
    starts: list[int] = []
    look = OnIteration(lambda now: starts.append(int(now.state.position)))
    (picture,), _ = decode(model, make_request(model, [PROMPT], FREE), method, [3], [look])
    assert [at for name, at, _ in read if name == "activate_window"] == starts
    ends = iter([*starts[1:], len(picture)])
    for name, at, text in read:
        if name == "activate_window":
            end = next(ends)
            assert torch.equal(text[:at], picture[:at])
        elif at == end:
            assert torch.equal(text[:at], picture[:at])
        else:
            assert passes == "sweep"
            assert torch.equal(text[:end], picture[:end])


@pytest.mark.parametrize("passes", [2, "sweep"])
def test_corrected_pictures_follow_the_distribution_under_guidance_and_grammar(passes: Any) -> None:
    """Kills: a forced token that is corrected, or that corrects others as a picture's would."""
    guided = replace(FREE, guidance_scale=2.5, top_k=2)
    grammar = {1: 2, 3: 0}
    assert excess(20_000, 0, guided, grammar, window=4, corrector_passes=passes) < 1


def test_corrected_drafts_that_start_as_noise_follow_the_distribution() -> None:
    """Kills: a correction of drafts whose distribution was predicted from noise that counts it as
    clean.
    """
    adapter = Unmoved(TableModel().symbols)
    assert excess(20_000, adapter=adapter, window=6, denoising_steps=2) < 1


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_corrected_pictures_follow_the_distribution_at_small_batches(batch: int) -> None:
    """Kills: rows that read each other's neighbours or distributions."""
    assert excess(2_000, batch, window=4, corrector_passes=2) < 1


@pytest.mark.parametrize("strength", [0.25, 0.7])
def test_correctors_of_moderate_strength_follow_the_distribution(strength: float) -> None:
    """Kills: what nearly one-hot distributions hide, such as numbers that two draws share."""
    assert excess(20_000, window=4, corrector_passes=3, strength=strength) < 1


@pytest.mark.parametrize(
    ("strength", "sampling", "options"),
    [
        *((strength, FREE, {}) for strength in (0.25, 0.7, 3.0)),
        (3.0, replace(FREE, guidance_scale=2.5, top_k=2), {"grammar": {1: 2, 3: 0}}),
        (3.0, FREE, {"adapter": Unmoved(TableModel().symbols), "denoising_steps": 2, "window": 6}),
    ],
    ids=["weak", "moderate", "strong", "guidance-and-grammar", "noise"],
)
def test_a_draft_labelled_with_the_old_distribution_is_found_out(
    strength: float,
    sampling: Sampling,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The power of the tests above: label q with p instead of q', and they must fail."""
    right = Correction.correct

    def wrong(self: Correction, now: Iteration) -> Verdict:
        slots = right(self, now).window.slots
        return now.verdict._replace(window=now.verdict.window._replace(slots=slots))

    monkeypatch.setattr(correction.Correction, "correct", wrong)
    options = {"window": 4, "corrector_passes": 2, **options}
    assert excess(20_000, 0, sampling, strength=strength, **options) > 1


def excess_of_labels(pictures: int, passes: Any, vocab_size: int, strength: float) -> float:
    """Chi-square of drafts against their labels, as a multiple of its threshold.

    It sees labels that are off by 9 % of a probability, in the mean over labels and tokens.

    A label is the distribution that a window holds for a draft when verification reads it. There
    are few different ones, as there are few prefixes: drafts are counted by forward and label.
    """
    model = TableModel(vocab_size, length=5)
    companions = Companions(corrector=Wild(model, strength))
    method = resolve(DecodingConfig(window=5, corrector_passes=passes), companions)
    drafts, labels = [], []

    def look(now: Iteration) -> None:
        state, window = now.state, now.state.window
        if state.iteration > 1:  # the first window is not corrected
            inside = state.columns() < model.length
            drafts.append(window.tokens[inside])
            label = window.draft_logits[:, : window.width].exp()[inside]
            labels.append(F.pad(label, (1, 0), value=float(state.iteration)))

    request = make_request(model, [PROMPT] * pictures, FREE)
    decode(model, request, method, range(pictures), [OnIteration(look)])
    drawn, label = torch.cat(drafts), torch.cat(labels).double()
    kinds, kind = torch.unique((label * 1e4).round(), dim=0, return_inverse=True)
    found = torch.zeros(len(kinds), model.vocab_size, dtype=torch.float64)
    expected = torch.zeros_like(found).index_add_(0, kind, label[:, 1:])
    found.index_put_((kind, drawn), torch.ones_like(drawn).double(), accumulate=True)
    common = (expected >= 5).all(dim=1)
    statistic = ((found - expected) ** 2 / expected)[common].sum()
    degrees = common.sum() * (model.vocab_size - 1)
    assert degrees >= 20
    return statistics.excess(
        float(statistic), int(degrees), float(expected[common].sum()), sees=0.09
    )


# Pictures, passes, tokens and the strength of a corrector. Weaker ones move too little for these
# few pictures; `tests/kernels/test_correction_enumeration.py` has them, and stronger ones.
MODERATE = [(20_000, 3, 2, 0.4), (10_000, 3, 2, 0.7), (10_000, 3, 3, 1.0)]


@pytest.mark.parametrize(
    ("pictures", "passes", "vocab_size", "strength"), [*MODERATE, (10_000, "sweep", 2, 0.7)]
)
def test_drafts_follow_the_distribution_that_they_are_labelled_with(
    pictures: int, passes: Any, vocab_size: int, strength: float
) -> None:
    """Kills: numbers that passes share, a label of another column, pass or row."""
    assert excess_of_labels(pictures, passes, vocab_size, strength) < 1


@pytest.mark.parametrize(("pictures", "passes", "vocab_size", "strength"), MODERATE)
def test_passes_with_the_same_numbers_are_found_out(
    pictures: int,
    passes: int,
    vocab_size: int,
    strength: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The power of the test above, at every strength: chi-square is far above its mean.

    Kills: correctors so strong that their distributions are one-hot, where any numbers will do.
    """
    right = correction.correct_window
    monkeypatch.setattr(
        correction,
        "correct_window",
        lambda *given, **named: right(*given, **(named | {"correction": 1})),
    )
    assert excess_of_labels(pictures, passes, vocab_size, strength) > 1


@pytest.mark.parametrize("options", [{}, {"corrector_passes": "sweep"}, {"verify": "gumbel"}])
def test_triton_corrects_as_its_twins_do(options: dict[str, Any]) -> None:
    """Kills: a window that one implementation keeps otherwise between corrections."""
    triton = pytest.importorskip("triton")
    if not triton.knobs.runtime.interpret:
        pytest.skip("Triton is not interpreted here")
    model = TableModel(length=9, grammar={2: 1})
    request = make_request(model, [PROMPT] * 3, replace(FREE, guidance_scale=2.0, temperature=0.8))
    drawn = []
    for backend in ("eager", "triton"):
        config = DecodingConfig(window=4, backend=backend, **options)
        method = resolve(config, Companions(corrector=Wild(model)))
        tokens, stats = decode(model, request, method, range(3))
        assert stats.is_corrected
        drawn.append((tokens, stats.accept_lengths))
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert drawn[0][1] == drawn[1][1]


def loud_corrector(model: Any, strength: float = 1.0) -> Corrector:
    """Random weights, at a strength of one many times the size of what is learned."""
    corrector = sjd2.new_corrector(model, rank=8)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in corrector.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * strength)
    return corrector


@pytest.mark.parametrize(("batch", "strength"), [(1, 0.25), (3, 0.7), (8, 3.0)])
@pytest.mark.parametrize("passes", [1, 2, 5, "sweep"])
def test_a_corrector_of_any_strength_changes_no_token(
    janus: Any, batch: int, strength: float, passes: Any
) -> None:
    """Kills: a correction of committed tokens, noise that depends on the pass."""
    rows = slice(0, batch)
    sjd2.accelerate(janus, method="ar", seed=11)
    expected = draw(janus, rows, top_k=0)
    sjd2.accelerate(
        janus,
        corrector=loud_corrector(janus, strength),
        corrector_passes=passes,
        verify="gumbel",
        window=16,
        seed=11,
    )
    assert torch.equal(draw(janus, rows, top_k=0), expected)


def test_adapter_and_corrector_together_change_no_token(janus: Any) -> None:
    """Kills: a corrected draft committed behind noise, or denoised towards another token."""
    sjd2.accelerate(janus, method="ar", seed=11)
    expected = draw(janus, top_k=0)
    adapter, corrector = loud_adapter(janus), loud_corrector(janus)
    sjd2.accelerate(
        janus, adapter=adapter, corrector=corrector, verify="gumbel", window=16, seed=11
    )
    assert torch.equal(draw(janus, top_k=0), expected)
    assert sjd2.decoding_stats(janus).method == "sjd2"


def test_a_loud_corrector_changes_the_pace(janus: Any) -> None:
    """Kills: a test of the above that passes because nothing is corrected."""
    paces = []
    for corrector in (None, sjd2.new_corrector(janus), loud_corrector(janus)):
        sjd2.accelerate(janus, corrector=corrector, verify="gumbel", window=16, seed=3)
        draw(janus, top_k=0)
        paces.append(sjd2.decoding_stats(janus).accept_lengths)
    assert paces[0] != paces[2]
    # One that was never trained corrects nothing, but for columns that enter beside others.
    assert paces[0] == paces[1]


def test_a_corrected_row_alone_equals_the_row_in_a_batch(janus: Any) -> None:
    """Kills: a neighbour, a distribution or a random number of another row."""
    sjd2.accelerate(janus, corrector=loud_corrector(janus), window=16)
    together = draw(janus, slice(0, 8), seed=3, top_k=0)
    for row in range(8):
        alone = draw(janus, slice(row, row + 1), seed=3 + row, top_k=0)
        assert torch.equal(alone[0], together[row])
