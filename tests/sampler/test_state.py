"""Batches in motion: finished rows leave, windows shrink, nothing is read back on the way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sjd2.config import DecodingConfig
from sjd2.kernels import Rules, verify_window
from sjd2.kernels.verify_window import cpu
from sjd2.protocol import Sampling
from sjd2.sampler import decode, resolve
from sjd2.sampler.state import DecodingState
from tests.table_model import TableModel, make_request


def finish(state: DecodingState, rows: list[int]) -> None:
    state.position[rows] = state.length
    state.settle()


def test_finished_rows_leave_when_a_quarter_has() -> None:
    """Kills: rows carried to the end; a copy for every single row; guidance halves torn apart."""
    model = TableModel(length=12)
    guided = Sampling(True, guidance_scale=2.0)
    request = make_request(model, [(2, 1)] * 8, guided)
    state = DecodingState(model, request, list(range(8)), Rules(), 6, 6)
    state.cache.open_window(2)
    marks = torch.arange(16.0)[:, None, None, None].expand(16, 1, 2, 1)
    state.cache.update(marks, marks, 0)
    finish(state, [3])
    assert state.rows.tolist() == list(range(8))
    finish(state, [6])
    assert state.rows.tolist() == [0, 1, 2, 4, 5, 7]
    assert state.seed.tolist() == [0, 1, 2, 4, 5, 7]
    kept = [0, 1, 2, 4, 5, 7]
    assert state.cache.keys[0][:, 0, 0, 0].tolist() == kept + [8 + row for row in kept]
    assert len(state.window.tokens) == len(state.cache.lengths) // 2 == 6
    finish(state, list(range(6)))
    assert not state.drawing


def test_the_window_shrinks_to_what_remains() -> None:
    """Kills: finished rows that cost slots; a window cut by the *fastest* row."""
    model = TableModel(length=12)
    request = make_request(model, [(2, 1)] * 8, Sampling(True))
    state = DecodingState(model, request, list(range(8)), Rules(), 6, 6)
    state.position[:] = torch.tensor([12, 11, 10, 8, 8, 8, 8, 8])
    state.settle()
    assert state.committed == int(state.position.sum())
    assert state.width == 4


def test_forwards_of_the_batch_are_those_of_its_slowest_row() -> None:
    """Kills: a batch that goes on after its last row has finished."""
    model = TableModel(length=12)
    request = make_request(model, [(2, 1)] * 5, Sampling(True))
    _, stats = decode(model, request, resolve(DecodingConfig(window=4)), range(5))
    assert stats.total_forward_passes == max(stats.forward_passes)


class NoReadback(TorchDispatchMode):
    """Refuses what would make a GPU report to the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in {"_local_scalar_dense", "nonzero", "masked_select", "item", "unique"}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("verify", ["ratio", "gumbel", "greedy"])
@pytest.mark.parametrize("coupling", ["maximal", "independent"])
def test_an_iteration_reads_nothing_back(
    monkeypatch: pytest.MonkeyPatch, verify: str, coupling: str
) -> None:
    """The path that a GPU takes, run here: no host synchronisation, and the same verdict.

    Kills: an `.item()`, an `if tensor:`, a boolean index anywhere between two settlements.
    """
    model = TableModel(length=12, grammar={3: 1})
    request = make_request(model, [(2, 1)] * 3, Sampling(True))
    rules = Rules(verify=verify, coupling=coupling, top_k=2, top_p=0.9, temperature=0.7)
    state = DecodingState(model, request, [0, 1, 2], rules, 6, 6)
    logits = torch.randn(3, 6, 3)
    at = {"seed": state.seed, "position": state.position, "iteration": 1, "length": 12}
    expected = verify_window(logits, state.window, rules, grammar=model.grammar, **at)
    monkeypatch.setattr(cpu, "is_host", lambda tensor: False)
    with NoReadback():
        verdict = verify_window(logits, state.window, rules, grammar=model.grammar, **at)
        state.cache.open_window(6)
        state.commit(verdict)
        state.slide(verdict)
    for ours, theirs in zip(verdict[:3], expected[:3], strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(verdict.window.tokens, expected.window.tokens)
