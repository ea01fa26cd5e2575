"""The command line: one module per command, and the way they all start and end.

A command is a module of its name in this package with two functions: `add_arguments(parser)` and
`run(given)`, which returns the exit status. Only the module of the chosen command is imported, and
it imports torch no sooner than in `run`: help and typing errors answer at once.

Exit status: 0 done, 1 out of memory, 2 a request that cannot be met (one line on stderr says why),
130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from sjd2 import __version__

COMMANDS = {
    "generate": "draw captions",
    "compare": "draw captions by several methods, side by side",
    "trace": "show when each token was accepted, as a race with ar",
    "app": "a local page to watch decoding on",
    "evaluate": "measure methods: forwards, seconds, memory and quality",
    "finetune": "train an adapter or a corrector, with which a model needs fewer forwards",
    "convert": "convert checkpoints of Chameleon's picture decoder and of Lumina-mGPT",
    "info": "versions, device and kernels",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: of the command line, without the name of the program; None reads `sys.argv`.

    Returns:
        The exit status.

    Raises:
        SystemExit: by argparse, after help (0) or a wrong argument (2).
    """
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            try:
                given = parse(arguments)
                status: int = import_module(f"sjd2.cli.{given.command}").run(given)
            finally:
                sys.stdout.flush()
        except KeyboardInterrupt:
            print("\nsjd2: interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:
            # The interpreter flushes stdout once more as it ends; give it somewhere to write.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        # The library raises these for what the user can correct; the message says how.
        except (ValueError, OSError) as error:
            _print_error(str(error))
            return 2
        except RuntimeError as error:
            # By name: torch may not have been imported.
            if type(error).__name__ != "OutOfMemoryError":
                raise
            _print_error("out of memory: draw fewer pictures at once")
            return 1
    return status


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of a command, each checked by itself.

    Args:
        arguments: as `main` takes them.

    Raises:
        SystemExit: after help (0) or a wrong argument (2).
    """
    words = sys.argv[1:] if arguments is None else arguments
    chosen = next((word for word in words if not word.startswith("-")), None)
    parser = _Parser(
        prog="sjd2",
        description="Autoregressive text-to-image models, several times faster, drawing what they "
        "always drew.",
        epilog='start with: sjd2 generate "a red ring above a blue square"',
    )
    parser.add_argument("--version", action="version", version=f"sjd2 {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, does in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=does,
            description=does[0].upper() + does[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == chosen:
            import_module(f"sjd2.cli.{name}").add_arguments(command)
    return parser.parse_args(words)


class _Parser(argparse.ArgumentParser):
    """Answers a wrong argument with one line."""

    def error(self, message: str) -> NoReturn:
        _print_error(f"{message} (see {self.prog} --help)")
        raise SystemExit(2)


def _print_error(message: str) -> None:
    print("sjd2: error:", " ".join(message.split()), file=sys.stderr)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print("sjd2: warning:", message, file=sys.stderr)
