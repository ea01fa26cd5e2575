"""The rows as tables: cells of text, and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]


def head_and_cells(
    rows: Sequence[Row], timings: Sequence[Row]
) -> tuple[list[str], list[list[str]]]:
    """The table as text. Columns without any value are omitted.

    Args:
        rows: of `table_rows`.
        timings: of `timing_rows`, in the same order.
    """
    columns = {
        "method": [row["label"] for row in rows],
        "window": [str(row["window"]) for row in rows],
        "exact": ["yes" if row["exact"] else "**no**" for row in rows],
        "total variation": [_number(row["total_variation"], ".3f") for row in rows],
        "forwards": [f"{row['forwards']['mean']:.1f}" for row in rows],
        "step compression": [f"{row['step_compression']:.2f}x" for row in rows],
        "pictures as ar's": [_same(row["same_as_ar"]) for row in rows],
        "seconds per picture": [f"{time['seconds_per_picture']:.3f}" for time in timings],
        "in forwards": [f"{_share(time):.0%}" for time in timings],
        "as captioned (95 %)": [_checker(row["checker"]) for row in rows],
        "FID": [_number(row.get("fid"), ".2f") for row in rows],
        "CLIP score": [_number(row.get("clip_score"), ".2f") for row in rows],
        "compression: mean ± sd": [_mean(row["step_compression_of_pictures"]) for row in rows],
        "5 / 50 / 95 %": [_percentiles(row["step_compression_of_pictures"]) for row in rows],
        "peak memory": [_memory(time["peak_memory"]) for time in timings],
    }
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    if all(row["exact"] for row in rows):
        shown.pop("exact")
    return list(shown), [list(cells) for cells in zip(*shown.values(), strict=True)]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _mean(spread: Row) -> str:
    return f"{spread['mean']:.2f} ± {spread['std']:.2f}"


def _percentiles(spread: Row) -> str:
    return f"{spread['p5']:.1f} / {spread['p50']:.1f} / {spread['p95']:.1f}"


def _share(timing: Row) -> float:
    share: float = timing["forward_seconds_per_picture"] / timing["seconds_per_picture"]
    return share


def _memory(size: int | None) -> str:
    return "" if size is None else f"{size / 2**20:.0f} MiB"


def _checker(verdict: Row | None) -> str:
    if verdict is None:
        return ""
    share = verdict["passed"] / verdict["judged"]
    return f"{share:.1%} ({verdict['low']:.0%} to {verdict['high']:.0%})"


def _same(same: Row | None) -> str:
    return "" if same is None else f"{same['same']} of {same['of']}"
