"""What the corrector gives: forwards, and its own time, by window and passes.

    python bench/bench_corrector.py            # about a quarter of an hour on 2 cores
    python bench/bench_corrector.py --docs     # also write the table into docs/ablation.md

Every method draws the same captions from the same seeds with the embedded model. Rows are written
as soon as they are measured; --resume continues a stopped run. The corrector's time is in percent
of the forwards'.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from drawing import (
    METHODS,
    ROOT,
    Bench,
    Results,
    environment,
    machine,
    put_between,
    share_of,
    table,
)

from sjd2.demo import DEMO, WEIGHTS
from sjd2.sampler.correction import Correction

HEAD = (
    "method",
    "W",
    "passes",
    "forwards",
    "step compression",
    "corrector's time",
    "checker (95 %)",
)


@contextmanager
def timed(model: Any) -> Iterator[dict[str, float]]:
    """Seconds that forwards of the backbone and corrections take inside the block."""
    spent = {"forward": 0.0, "corrector": 0.0}

    def timing(name: str, call: Any) -> Any:
        def timed_call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = call(*args, **kwargs)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            spent[name] += time.perf_counter() - started
            return result

        return timed_call

    backbone, correct = model.model.language_model, Correction.correct
    backbone.forward = timing("forward", backbone.forward)
    Correction.correct = timing("corrector", correct)  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        del backbone.forward
        Correction.correct = correct  # type: ignore[method-assign]


def draw(bench: Bench, *args: Any, **options: Any) -> dict[str, Any]:
    """A row, with the corrector's time as a share of the forwards'."""
    with timed(bench.model) as spent:
        row = bench.row(*args, **options)
    return {**asdict(row), "share": spent["corrector"] / spent["forward"]}


def report(found: dict[str, Any]) -> str:
    """The table in Markdown, under a line about its settings."""
    lines = []
    for row in found["rows"]:
        lines.append(
            [
                row["method"],
                str(row["window"]),
                str(row["passes"] or ""),
                f"{row['forwards']:.1f}",
                f"{row['step_compression']:.2f}x",
                f"{row['share']:.0%}" if row["passes"] else "",
                share_of(row["passed"], row["pictures"]),
            ]
        )
    return (
        f"{found['rows'][0]['pictures']} pictures of held-out captions, batch {found['batch']}, "
        f"guidance {found['guidance']:g}, temperature 1, {machine(found['environment'])}. "
        f"Made by `{found['command']}`.\n\n{table(HEAD, lines)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corrector", type=Path, default=WEIGHTS / "corrector", help="its folder")
    parser.add_argument("--captions", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--windows", type=int, nargs="+", default=[64, 96])
    parser.add_argument("--passes", nargs="+", default=["1", "2", "4", "sweep"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="JSON file; default bench/results/corrector-...")
    parser.add_argument("--resume", action="store_true", help="keep the rows that are known")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/ablation.md")
    given = parser.parse_args()
    bench = Bench(given.captions, given.device, DEMO, given.seeds)
    facts = {
        "environment": environment(bench.model),
        "batch": given.batch,
        "guidance": bench.guidance,
    }
    out = given.out or ROOT / "bench" / "results" / f"corrector-{given.device}.json"
    results = Results(out, facts, given.resume)
    rows: list[tuple[str, int, str, dict[str, Any]]] = [("ar", 1, "", {"method": "ar"})]
    for window in given.windows:
        for name in ("sjd gumbel", "sjd maximal"):
            options = {"window": window, **METHODS[name]}
            rows.append((name, window, "", options))
            for passes in given.passes:
                corrector = {"corrector": given.corrector}
                corrector["corrector_passes"] = passes if passes == "sweep" else int(passes)
                label = name.replace("sjd", "corrected")
                rows.append((label, window, passes, {**options, **corrector}))
    for name, window, passes, options in rows:
        of: dict[str, Any] = {"method": name, "window": window, "passes": passes}
        results.row(of, partial(draw, bench, name, given.batch, **options))
    text = report(results.found)
    print(text)
    if given.docs:
        put_between(ROOT / "docs" / "ablation.md", "bench_corrector", text)


if __name__ == "__main__":
    main()
