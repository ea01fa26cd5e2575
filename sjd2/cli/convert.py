"""`sjd2 convert`: an old checkpoint of Chameleon's picture decoder as safetensors."""

from __future__ import annotations

import argparse
from pathlib import Path

from sjd2.cli import arguments

_EXAMPLES = """\
example:
  sjd2 convert vqgan.ckpt vqgan.safetensors
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command to its parser."""
    parser.usage = "sjd2 convert CHECKPOINT SAFETENSORS [options]"
    parser.epilog = _EXAMPLES
    parser.add_argument("source", metavar="CHECKPOINT", help="a .ckpt file; no code in it is run")
    parser.add_argument("out", metavar="SAFETENSORS", help="the decoder's weights")
    arguments.add_force(parser)


def run(given: argparse.Namespace) -> int:
    """Read the checkpoint, write the decoder's weights."""
    from safetensors.torch import save

    from sjd2.files import check_target, write_atomically
    from sjd2.pixels.vqgan import convert_vq_checkpoint

    out = Path(given.out)
    if out.suffix != ".safetensors":
        raise ValueError(f"{out}: must end in .safetensors")
    check_target(out, force=given.force)
    weights = save(convert_vq_checkpoint(given.source))
    write_atomically(out, lambda file: file.write(weights), force=given.force)
    print(out)
    return 0
