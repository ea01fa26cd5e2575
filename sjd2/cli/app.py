"""`sjd2 app`: a local page to watch decoding on."""

from __future__ import annotations

import argparse

from sjd2.cli import arguments, values
from sjd2.extras import missing

_EXAMPLES = """\
example:
  sjd2 app
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command to its parser."""
    parser.usage = "sjd2 app [options]"
    parser.epilog = _EXAMPLES
    arguments.add_model(parser)
    parser.add_argument(
        "--port", type=values.port, metavar="N", help="to listen at (default: a free one)"
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")


def run(given: argparse.Namespace) -> int:
    """Serve the page until interrupted."""
    try:
        from sjd2.app import serve
    except ImportError as error:
        raise missing("the page", "app", error) from error
    from sjd2.cli import common

    serve(common.load_pipeline(given), given.port, opens_browser=not given.no_browser)
    return 0
