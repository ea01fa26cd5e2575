"""`make gpu`: parity on the device, every kernel's benchmark, recorded iterations, a results file.

    python bench/gpu.py

Writes bench/results/<device>.json and, beside it, the same as a Markdown table.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
BENCHES = (
    "bench_noisy_embed.py",
    "bench_verify_window.py",
    "bench_correct_window.py",
    "bench_kv_cache.py",
)
COLUMNS = ("microseconds", "gb_per_s", "percent_of_peak", "launches")


def pytest(*arguments: str) -> int:
    """Runs pytest in the root of the project."""
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT).returncode


def sanitizer_is_clean() -> bool:
    """Parity once more under compute-sanitizer, where it is installed."""
    from shutil import which

    if which("compute-sanitizer") is None:
        print("compute-sanitizer is not installed: memory checks are skipped")
        return True
    tests = "tests/kernels/test_triton_parity.py"
    command = ["compute-sanitizer", "--error-exitcode", "1", sys.executable, "-m", "pytest"]
    return subprocess.run([*command, "-q", "-m", "gpu", tests], cwd=ROOT).returncode == 0


def rows_of(report: dict[str, Any]) -> list[dict[str, Any]]:
    """One flat row per benchmark."""
    return [
        {"benchmark": one["name"].removeprefix("bench_"), **one["extra_info"]}
        for one in report["benchmarks"]
    ]


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    lines = ["| benchmark | us | GB/s | % of peak | launches |", "|---|---|---|---|---|"]
    for row in rows:
        cells = [f"{row[column]:.1f}" if column in row else "" for column in COLUMNS]
        lines.append("| " + " | ".join([row["benchmark"], *cells]) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    if not torch.cuda.is_available():
        print("make gpu: torch sees no GPU here; nothing was run and nothing was written")
        return 1
    if pytest("-m", "gpu") or not sanitizer_is_clean():
        return 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        benches = [f"bench/{name}" for name in BENCHES]
        failed = pytest(*benches, "-q", f"--benchmark-json={path}")
        rows = rows_of(json.loads(path.read_text()))
        graphs = Path(folder) / "graphs.json"
        # Whole drawings; what to set is printed below each table.
        command = [sys.executable, "bench/bench_graphs.py", "--json", str(graphs)]
        failed |= subprocess.run(command, cwd=ROOT).returncode
        drawings = json.loads(graphs.read_text()) if graphs.exists() else []
    import triton

    name = re.sub(r"\W+", "-", torch.cuda.get_device_name()).strip("-")
    environment = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda or torch.version.hip,
    }
    results = ROOT / "bench" / "results"
    results.mkdir(exist_ok=True)
    found = {"environment": environment, "rows": rows, "drawings": drawings}
    (results / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    said = ", ".join(f"{key} {value}" for key, value in environment.items())
    (results / f"{name}.md").write_text(f"{said}\n\n{markdown(rows)}")
    print(markdown(rows))
    return failed


if __name__ == "__main__":
    sys.exit(main())
