"""A recorded iteration, replayed, draws the tokens of the loop."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import sjd2
from sjd2.models import family_of
from sjd2.patching import install, method_of
from sjd2.protocol import Geometry
from sjd2.sampler import decode
from sjd2.sampler.graphs import Graphs, Loop
from sjd2.sampler.method import keep
from sjd2.sampler.queue import decode_queue
from sjd2.sampler.state import DecodingState
from sjd2.sampler.watchers import Iteration, OnIteration
from tests.family_models import FAMILIES
from tests.janus_model import MASK, PROMPTS, draw, tiny_janus
from tests.tape import Tape

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(
    not triton.knobs.runtime.interpret, reason="Triton is not interpreted here"
)


WINDOW, EXTENTS = 4, 2


def small_janus(length: int = 16) -> Any:
    return tiny_janus(length=length)  # interpreted kernels are slow


def taped(janus: Any, **options: Any) -> Tape:
    """Accelerate a model as `cuda_graphs=True` does on a GPU; what records its iterations."""
    tape = Tape()
    method, companions = method_of(janus, backend="triton", **options)
    method = replace(method, graphs=Graphs(tape, EXTENTS, grain=8))
    install(janus, method, companions)
    return tape


class Companions(NamedTuple):
    """Untrained, but with weights that say something."""

    adapter: sjd2.Adapter
    corrector: sjd2.Corrector


def companions_of(janus: Any) -> Companions:
    torch.manual_seed(1)
    adapter, corrector = sjd2.new_adapter(janus, rank=4), sjd2.new_corrector(janus, rank=6)
    with torch.no_grad():
        for weight in (*adapter.parameters(), *corrector.parameters()):
            weight.add_(0.3 * torch.randn_like(weight))
    return Companions(adapter, corrector)


MODES: dict[str, dict[str, Any]] = {
    "ar": {"method": "ar"},
    "independent": {"coupling": "independent"},
    "maximal": {},
    "uniform starts": {"start": "uniform"},
    "same seed": {"verify": "gumbel"},
    "corrected": {"corrector": True, "corrector_passes": 2},
    "corrected, same seed": {"corrector": True, "corrector_passes": 2, "verify": "gumbel"},
    "sweep": {"corrector": True, "corrector_passes": "sweep"},
    "sjd2": {"method": "sjd2", "adapter": True},
    "sjd2, same seed": {"method": "sjd2", "adapter": True, "verify": "gumbel"},
    "sjd2, corrected": {"method": "sjd2", "adapter": True, "corrector": True},
}


def options_of(janus: Any, mode: str) -> dict[str, Any]:
    options = {"window": WINDOW, "corrector": None, "adapter": None, **MODES[mode]}
    for name, companion in companions_of(janus)._asdict().items():
        options[name] = companion if options[name] else None
    return options


def drawn_by_the_loop(janus: Any, options: dict[str, Any], **call: Any) -> tuple[Tensor, Any]:
    # The kernels' twins draw the same, and faster: see `test_triton_path.py`.
    sjd2.accelerate(janus, backend="eager", **options)
    return draw(janus, **call), sjd2.decoding_stats(janus)


def check_the_same(janus: Any, options: dict[str, Any], **call: Any) -> Tape:
    expected, forwards = drawn_by_the_loop(janus, options, **call)
    tape = taped(janus, **options)
    assert torch.equal(draw(janus, **call), expected)
    assert sjd2.decoding_stats(janus).accept_lengths == forwards.accept_lengths
    return tape


# Interpreted kernels are slow: the fast suite replays what differs in kind.
FAST = ("ar", "sjd2, corrected")
CASES = [
    pytest.param(mode, rows, length, marks=() if is_fast else pytest.mark.slow)
    for mode in MODES
    for rows, length, is_fast in (
        (2, 16, mode in FAST),
        (1, 64, False),
        (8, 16, False),
    )
]


@pytest.mark.parametrize(("mode", "rows", "length"), CASES)
def test_a_replayed_iteration_draws_the_tokens_of_the_loop(
    mode: str, rows: int, length: int
) -> None:
    """Kills: a number of the host's in a recording; a tensor put in another's place by Python."""
    janus = small_janus(length)
    tape = check_the_same(janus, options_of(janus, mode), rows=slice(0, rows), seed=5)
    assert tape.recordings <= 2 * EXTENTS
    assert tape.replays > 1


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["maximal", "corrected", "sjd2, corrected"])
def test_replay_at_batch_8_with_every_filter(mode: str) -> None:
    """Kills: rows that are finished and go on in a recording; filters read from the host."""
    janus = small_janus()
    filters = {"temperature": 0.9, "top_k": 20, "top_p": 0.9}
    check_the_same(janus, options_of(janus, mode), rows=slice(0, 8), seed=2, **filters)


def test_replay_without_guidance() -> None:
    """Kills: rows of guidance that a recording takes for granted."""
    janus = small_janus()
    check_the_same(janus, options_of(janus, "corrected"), seed=2, guidance_scale=1.0)


@pytest.mark.parametrize(
    "mode",
    [
        "maximal",
        *(pytest.param(m, marks=pytest.mark.slow) for m in ("corrected", "sjd2, corrected")),
    ],
)
def test_a_later_call_of_the_same_shape_records_nothing(mode: str) -> None:
    """Kills: a recording that reads the tensors of the call that made it; a result overwritten."""
    janus = small_janus()
    options = options_of(janus, mode)
    calls: list[dict[str, Any]] = [
        {"rows": slice(0, 2), "seed": 1},
        {"rows": slice(1, 3), "seed": 7},
        {"rows": slice(0, 2), "seed": 1},
    ]
    expected = [drawn_by_the_loop(janus, options, **call)[0] for call in calls]
    tape = taped(janus, **options)
    drawn = [draw(janus, **calls[0])]
    recordings = tape.recordings
    drawn += [draw(janus, **call) for call in calls[1:]]
    assert tape.recordings <= recordings + 2  # an extent that the first call met only once
    for one, other in zip(drawn, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_recorded_tensors_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills: a state that takes a new tensor between two replays."""
    janus = small_janus()
    tape = taped(janus, **options_of(janus, "sjd2, corrected"))
    graphs = janus.generate.method.graphs
    settle, seen = DecodingState.settle, set()

    def settled(state: DecodingState) -> None:
        if state.is_fixed:
            (pinned,) = graphs.pinned.values()
            seen.add(tuple(one.data_ptr() for one in tensors_of(state)))
            assert state.position is pinned.state.position
        settle(state)

    monkeypatch.setattr(DecodingState, "settle", settled)
    draw(janus, seed=3)
    assert tape.replays > 4
    assert len(seen) == 1


def tensors_of(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Geometry):
        return tensors_of(value.grammar)
    parts = [getattr(value, name) for name in getattr(type(value), "READ_BY_ITERATIONS", ())]
    if isinstance(value, (list, tuple)):
        parts = list(value)
    return [tensor for part in parts for tensor in tensors_of(part)]


@pytest.mark.parametrize(
    "mode", ["maximal", *(pytest.param(m, marks=pytest.mark.slow) for m in ("corrected", "sjd2"))]
)
def test_pictures_that_begin_in_freed_rows_are_replayed(mode: str) -> None:
    """Kills: recordings that do not see what a newcomer brought; its iterations miscounted."""
    janus = small_janus()
    options = options_of(janus, mode)
    alone = [
        drawn_by_the_loop(janus, options, rows=slice(row, row + 1), seed=40 + row)[0]
        for row in range(6)
    ]
    tape = taped(janus, **options)
    hook = janus.generate
    family = family_of(janus)
    inputs = [
        {"input_ids": PROMPTS[row : row + 1], "attention_mask": MASK[row : row + 1]}
        for row in range(6)
    ]
    asked = {"generation_mode": "image", "do_sample": True, "guidance_scale": 3.0}
    pictures = [(family.request(**one, **asked), 40 + row) for row, one in enumerate(inputs)]
    found: dict[int, Tensor] = {}
    decode_queue(
        family, pictures, hook.method, 2, lambda one: found.update({one.number: one.tokens})
    )
    assert tape.replays > 4
    for row, tokens in enumerate(alone):
        assert torch.equal(found[row], tokens[0]), row


def test_a_call_inside_of_another_leaves_its_tensors_alone() -> None:
    """Kills: two calls of one shape, of two threads or one in the other, on the same tensors."""
    janus = small_janus()
    options, row = options_of(janus, "maximal"), slice(0, 1)
    expected = [drawn_by_the_loop(janus, options, rows=row, seed=seed)[0] for seed in (3, 4)]
    taped(janus, **options_of(janus, "maximal"))
    family = family_of(janus)
    inside: list[Tensor] = []

    def look(now: Iteration) -> None:
        if now.state.iteration == 5:
            inside.append(draw(janus, row, seed=4))

    asked = {"generation_mode": "image", "do_sample": True, "guidance_scale": 3.0}
    request = family.request(input_ids=PROMPTS[:1], attention_mask=MASK[:1], **asked)
    tokens, _ = decode(family, request, janus.generate.method, [3], [OnIteration(look)])
    assert torch.equal(tokens, expected[0])
    assert torch.equal(inside[0], expected[1])


def test_watchers_see_what_they_see_in_the_loop() -> None:
    """Kills: watchers shown what the later half of a recording has overwritten."""
    janus = small_janus()
    call = {"rows": slice(0, 2), "seed": 3, "output_logprobs": "both"}
    _, expected = drawn_by_the_loop(janus, options_of(janus, "maximal"), **call)
    tape = taped(janus, **options_of(janus, "maximal"))
    draw(janus, **call)
    stats = sjd2.decoding_stats(janus)
    for name in ("logprobs", "model_logprobs"):
        torch.testing.assert_close(getattr(stats, name), getattr(expected, name))
    assert tape.replays > 4


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["maximal", "corrected", "sjd2"])
def test_forced_tokens_are_replayed(mode: str) -> None:
    """Kills: a grammar that a recording has read from the call that made it."""
    family = FAMILIES["emu3"]
    model = family.make()
    options = options_of(model, mode)
    sjd2.accelerate(model, backend="eager", **options)
    expected = family.draw(model, seed=3)
    tape = taped(model, **options)
    assert torch.equal(family.draw(model, seed=3), expected)
    recordings = tape.recordings
    assert torch.equal(family.draw(model, seed=3), expected)
    assert tape.recordings <= recordings + 2


def test_what_cannot_be_recorded_says_so_and_is_drawn_by_the_loop() -> None:
    """Kills: a setting that is ignored in silence; a call that fails for it."""
    janus = small_janus()
    expected, _ = drawn_by_the_loop(janus, {"window": WINDOW}, seed=3)
    sjd2.accelerate(janus, window=WINDOW, backend="triton", cuda_graphs=True)
    with pytest.warns(UserWarning, match="cuda_graphs=True: the model is on 'cpu', not on a GPU"):
        assert torch.equal(draw(janus, seed=3), expected)
    taped(janus, window=WINDOW)
    with pytest.warns(UserWarning, match="processors run on the host"):
        draw(janus, seed=3, logits_processor=[lambda ids, scores: scores])


def test_what_a_closure_keeps_is_not_replayed() -> None:
    """Kills: a rule, or a re-drafting, that is asked while recording and never again."""
    janus = small_janus(length=4)
    taped(janus, window=2)
    method: Any = janus.generate.method
    kept: list[Any] = []

    def redraft(now: Iteration) -> Any:
        kept.append(now)
        return now.verdict

    own = replace(method, rule=lambda *what: kept)
    for stateful, redrafting in ((own, keep), (method, redraft)):
        with pytest.warns(UserWarning, match="rule or re-drafting of your own"):
            run = stateful.run(None, None, redrafting)
        assert isinstance(run, Loop)


def test_recordings_stay_with_the_model_that_they_were_made_with() -> None:
    """Kills: a copy of a model that replays on the addresses of the other."""
    janus = small_janus()
    taped(janus, window=WINDOW)
    expected = draw(janus, seed=3)
    twin = copy.deepcopy(janus)
    assert janus.generate.method.graphs.pinned
    assert not twin.generate.method.graphs.pinned
    assert torch.equal(draw(twin, seed=3), expected)
