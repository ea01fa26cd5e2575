"""From the accounts of single calls to the rows of tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from sjd2.evaluate.measure import Account
from sjd2.evaluate.plan import Plan, Setting, Unit
from sjd2.sampler.presets import BASELINE, Preset

PERCENTILES = (5, 25, 50, 75, 95)
Measured = Sequence[tuple[Unit, Account]]


def wilson(passed: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a proportion.

    Args:
        passed: of `trials`, which is at least 1.
        z: standard normal quantile; 1.96 is 95 %.
    """
    share, weight = passed / trials, z * z / trials
    centre = (share + weight / 2) / (1 + weight)
    reach = z * (share * (1 - share) / trials + weight / (4 * trials)) ** 0.5 / (1 + weight)
    return centre - reach, centre + reach


def table_rows(plan: Plan, measured: Measured) -> list[dict[str, Any]]:
    """What was drawn, one row per setting; independent of the machine's speed."""
    baseline = {
        (unit.first, unit.seed): account["digests"]
        for unit, account in measured
        if unit.setting.method == BASELINE
    }
    return [
        _row(plan.methods[setting.method], setting, _of(measured, setting), baseline)
        for setting in plan.table()
    ]


def timing_rows(plan: Plan, measured: Measured) -> list[dict[str, Any]]:
    """What it cost, one row per setting: seconds and memory, which differ between runs."""
    return [_timing(setting, _of(measured, setting)) for setting in plan.table()]


def curve_rows(plan: Plan, measured: Measured, over: str) -> list[dict[str, Any]]:
    """Step compression by guidance or temperature, of the first batch from the first seed."""
    rows = []
    for setting in plan.curve(over):
        account = _of(measured, setting)[0][1]
        compression = account["tokens"] / sum(account["forward_passes"])
        label = plan.methods[setting.method].label
        rows.append({**asdict(setting), "label": label, "step_compression": compression})
    return rows


def _of(measured: Measured, setting: Setting) -> Measured:
    return [(unit, account) for unit, account in measured if unit.setting == setting]


def _row(
    method: Preset,
    setting: Setting,
    measured: Measured,
    baseline: dict[tuple[int, int], list[str]],
) -> dict[str, Any]:
    accounts = [account for _, account in measured]
    forwards = np.array([n for account in accounts for n in account["forward_passes"]])
    tokens = sum(account["tokens"] for account in accounts)
    lengths = Counter(
        length
        for account in accounts
        for picture in account["accept_lengths"]
        for length in picture
    )
    # As in `DecodingStats`: of the average picture. The spread below is that over pictures.
    pooled = tokens / int(forwards.sum())
    return {
        **asdict(setting),
        "label": method.label,
        "exact": method.is_exact,
        "total_variation": method.total_variation,
        "pictures": len(forwards),
        "tokens": tokens,
        "forwards": _spread(forwards),
        "tokens_per_forward": pooled,
        "step_compression": pooled,
        "step_compression_of_pictures": _spread(tokens / len(forwards) / forwards),
        "accept_lengths": {str(length): lengths[length] for length in sorted(lengths)},
        "checker": _verdict([one for account in accounts for one in account["passed"]]),
        "same_as_ar": _sameness(measured, baseline) if method.is_same_seed and baseline else None,
    }


def _spread(values: np.ndarray[Any, Any]) -> dict[str, float]:
    """Mean, standard deviation and percentiles."""
    named = zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True)
    return {
        "mean": float(values.mean()),
        "std": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        **{f"p{percent}": float(value) for percent, value in named},
    }


def _verdict(passed: list[bool | None]) -> dict[str, float] | None:
    judged = [verdict for verdict in passed if verdict is not None]
    if not judged:
        return None
    low, high = wilson(sum(judged), len(judged))
    return {"passed": sum(judged), "judged": len(judged), "low": low, "high": high}


def _sameness(measured: Measured, baseline: dict[tuple[int, int], list[str]]) -> dict[str, int]:
    """Pictures whose tokens are those of the baseline, and pictures compared."""
    pairs = [
        pair
        for unit, account in measured
        for pair in zip(account["digests"], baseline[unit.first, unit.seed], strict=True)
    ]
    return {"same": sum(one == other for one, other in pairs), "of": len(pairs)}


def _timing(setting: Setting, measured: Measured) -> dict[str, Any]:
    accounts = [account for _, account in measured]
    pictures = sum(len(account["forward_passes"]) for account in accounts)
    seconds = sum(account["seconds"] for account in accounts)
    forward = sum(account["forward_seconds"] for account in accounts)
    peaks = [account["peak_memory"] for account in accounts if account["peak_memory"] is not None]
    of_calls = np.array([a["seconds"] / len(a["forward_passes"]) for a in accounts])
    return {
        **asdict(setting),
        "seconds_per_picture": seconds / pictures,
        "forward_seconds_per_picture": forward / pictures,
        "rest_seconds_per_picture": (seconds - forward) / pictures,
        "seconds_per_picture_of_calls": _spread(of_calls),
        "peak_memory": max(peaks, default=None),
    }
