"""`sjd2 info`: versions, device and kernels."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform

_EXAMPLES = """\
example:
  sjd2 info --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command to its parser."""
    parser.usage = "sjd2 info [options]"
    parser.epilog = _EXAMPLES
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(given: argparse.Namespace) -> int:
    """Print what there is to know about this machine."""
    import torch
    import transformers

    import sjd2
    from sjd2.cli import common
    from sjd2.demo import WEIGHTS
    from sjd2.kernels._dispatch import select
    from sjd2.pictures.loading import choose_device

    try:
        backend, reason = select("auto")
    except ValueError as error:
        backend, reason = None, str(error)
    weights = WEIGHTS / "model.safetensors"
    facts = {
        "sjd2": sjd2.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "transformers": transformers.__version__,
        "platform": platform.platform(),
        "device": str(choose_device("auto")),
        "device_name": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "kernels": backend,
        "kernels_reason": reason,
        "demo_weights": str(weights) if weights.is_file() else None,
    }
    if given.json:
        common.print_json(given, **facts)
        return 0
    width = max(map(len, facts))
    for name, fact in facts.items():
        print(f"{name.replace('_', ' '):<{width}}  {'none' if fact is None else fact}")
    return 0


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
