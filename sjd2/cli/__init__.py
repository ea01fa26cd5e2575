"""The command line: `sjd2 generate`, `sjd2 compare`, `sjd2 info`."""

from sjd2.cli.commands import main

__all__ = ["main"]
