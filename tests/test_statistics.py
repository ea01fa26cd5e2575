"""The thresholds themselves."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from tests.statistics import (
    ERRORS,
    OF_ONE_TEST,
    POWER,
    excess,
    pearson,
    smallest_bias,
    strays,
    tail,
    threshold,
)


def test_tails_are_those_of_the_tables() -> None:
    """Kills: a lower tail, and degrees taken for half of them."""
    assert tail(3.841459, 1) == pytest.approx(0.05, abs=1e-6)
    assert tail(18.307038, 10) == pytest.approx(0.05, abs=1e-6)
    assert tail(149.449253, 100) == pytest.approx(0.001, abs=1e-8)
    assert 5.5 < ERRORS < 6.5


@pytest.mark.parametrize("degrees", [1, 8, 80, 1023])
def test_a_threshold_has_the_tail_that_was_asked_for(degrees: int) -> None:
    """Kills: a search that stops too early, or at its bound."""
    assert tail(threshold(degrees), degrees) == pytest.approx(OF_ONE_TEST, rel=1e-6)


def test_the_smallest_bias_is_seen_99_times_in_100() -> None:
    """Kills: a promise of power that is not kept, or one that is far too careful."""
    generator = torch.Generator().manual_seed(0)
    cells, pictures, times = 27, 5000, 1000
    q = torch.full((cells,), 1 / cells, dtype=torch.float64)
    sign = torch.where(torch.arange(cells) % 2 == 0, 1.0, -1.0).double()
    sign[-1] = 0
    seen = []
    for bias in (smallest_bias(cells - 1, pictures), 0.85 * smallest_bias(cells - 1, pictures)):
        p = q * (1 + bias * sign)
        drawn = torch.multinomial(p, times * pictures, replacement=True, generator=generator)
        rows = drawn.view(times, -1) + cells * torch.arange(times)[:, None]
        counts = torch.bincount(rows.flatten(), minlength=times * cells).view(times, cells)
        found = ((counts - pictures * q) ** 2 / (pictures * q)).sum(dim=1)
        seen.append(float((found > threshold(cells - 1)).double().mean()))
    assert seen[0] > 0.975
    assert seen[1] < 0.9


def test_a_claim_to_see_more_than_is_seen_is_refused() -> None:
    """Kills: a docstring's number that nobody computes."""
    bias = smallest_bias(8, 1000)
    assert excess(threshold(8), 8, 1000, bias) == pytest.approx(1)
    with pytest.raises(AssertionError):
        excess(0.0, 8, 1000, 0.99 * bias)
    error = torch.tensor([0.5, 1.0])
    assert strays(error, 0.0, error, ERRORS + POWER) == pytest.approx(1 / ERRORS)
    with pytest.raises(AssertionError):
        strays(error, 0.0, error, ERRORS + 0.9 * POWER)


def test_cells_that_must_be_empty_are() -> None:
    """Kills: an impossible token that is left out of the sum."""
    expected = torch.tensor([500.0, 0.0, 500.0])
    assert pearson(expected, expected, sees=1.0) == 0
    assert pearson(torch.tensor([500.0, 1.0, 499.0]), expected, sees=1.0) == float("inf")


HERE = Path(__file__).parent
DOORS = {"excess", "pearson", "strays", "excess_of_pictures"}
OWNERS = {HERE / "statistics.py", HERE / "table_model.py", Path(__file__)}


def without_a_twin(source: str) -> list[str]:
    """The functions of a module that measure a bias and that no test expects both to pass and fail.

    Such a function goes through a door of `tests/statistics.py`. A test expects it to pass with
    `< 1` and to fail, given what is known to be bad, with `> 1`; or `(measured < 1) == is_right`.
    """
    functions = {
        one.name: one for one in ast.parse(source).body if isinstance(one, ast.FunctionDef)
    }
    named = {
        name: {one.id for one in ast.walk(function) if isinstance(one, ast.Name)}
        for name, function in functions.items()
    }

    def reached(name: str, seen: set[str]) -> set[str]:
        for other in (named[name] & functions.keys()) - seen:
            seen |= reached(other, seen | {other})
        return seen

    measures = {name for name, function in functions.items() if _measures(function)}
    expected: dict[str, set[str]] = {name: set() for name in measures}
    for test in filter(lambda name: name.startswith("test_"), functions):
        for measure in reached(test, {test}) & measures:
            expected[measure] |= _expects(functions[test])
    return sorted(name for name, found in expected.items() if found != {"<", ">"})


def _measures(function: ast.FunctionDef) -> bool:
    calls = [one for one in ast.walk(function) if isinstance(one, ast.Call)]
    names = {ast.unparse(one.func).rpartition(".")[2] for one in calls if one.keywords or one.args}
    told = [word.arg for one in calls for word in one.keywords]
    return bool(names & DOORS) and "sees" in told


def _expects(test: ast.FunctionDef) -> set[str]:
    found: set[str] = set()
    for one in ast.walk(test):
        if isinstance(one, ast.Compare) and ast.unparse(one.comparators[-1]) == "1":
            found |= {{ast.Lt: "<", ast.Gt: ">"}.get(type(one.ops[-1]), "")} - {""}
        if isinstance(one, ast.Compare) and isinstance(one.ops[0], ast.Eq):
            found |= {"<", ">"} if ast.unparse(one.left).endswith("< 1") else set()
    return found


def test_every_statistical_test_has_a_known_bad_twin() -> None:
    """Kills: a statistic of which nobody knows that it can fail."""
    modules = [path for path in HERE.rglob("*.py") if path not in OWNERS]
    through = [path for path in modules if "sees=" in path.read_text()]
    assert len(through) >= 11
    assert {path.name: without_a_twin(path.read_text()) for path in through} == {
        path.name: [] for path in through
    }


@pytest.mark.parametrize(
    ("tests", "lacking"),
    [
        ("def test_right(): assert bias(1) < 1", ["bias"]),
        ("def test_right(): assert bias(1) < 1\ndef test_wrong(): assert bias(2) > 1", []),
        ("def test_wrong(): assert bias(2) > 1", ["bias"]),
        ("def test_both(wrong): assert (bias(wrong) < 1) == (not wrong)", []),
        ("def test_right(): assert other() < 1\ndef test_wrong(): assert bias(2) > 1", ["bias"]),
    ],
)
def test_a_twin_that_is_missing_is_missed(tests: str, lacking: list[str]) -> None:
    """Known-bad: modules of one measure."""
    measure = "def bias(of):\n    return excess(of, 8, 1000, sees=0.5)\n"
    assert without_a_twin(f"{measure}def other(): return 0\n{tests}\n") == lacking
