"""What the extras of the package bring, and the command that installs it."""

from __future__ import annotations

import shlex
import sys
from importlib.metadata import PackageNotFoundError, requires


def missing(what: str, extra: str, error: ImportError) -> ValueError:
    """The error of something that an extra is needed for.

    It names the packages themselves: that works wherever sjd2 was installed from.

    Args:
        what: is needed for, as the subject of the message.
        extra: of pyproject.toml.
        error: of the import that failed.
    """
    return ValueError(f"{what} needs more: {install_line(extra)} ({error})")


def install_line(extra: str) -> str:
    """The command that installs what an extra brings, for this very interpreter."""
    pip = f"{shlex.quote(sys.executable)} -m pip install"
    try:
        wanted = requires("sjd2") or []
    except PackageNotFoundError:  # run from a checkout that was never installed
        return f'{pip} -e ".[{extra}]"'
    marker = f"extra == '{extra}'"
    packages = [line.partition(";")[0].strip() for line in wanted if marker in line]
    return " ".join([pip, *(f'"{package}"' for package in packages)])
