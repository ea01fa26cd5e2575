"""`sjd2 convert`: checkpoints of Chameleon's picture decoder and of Lumina-mGPT, made loadable."""

from __future__ import annotations

import argparse
from pathlib import Path

from sjd2.cli import arguments

_EXAMPLES = """\
examples:
  sjd2 convert vqgan.ckpt vqgan.safetensors        # the decoder of Chameleon's pictures
  sjd2 convert Lumina-mGPT-7B-768/ lumina-768/     # a published checkpoint of Lumina-mGPT
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command to its parser."""
    parser.usage = "sjd2 convert CHECKPOINT OUT [options]"
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "source",
        metavar="CHECKPOINT",
        help="a .ckpt file, of which no code is run, or the folder of a model",
    )
    parser.add_argument(
        "out", metavar="OUT", help="a .safetensors file with the decoder's weights, or a folder"
    )
    arguments.add_force(parser)


def run(given: argparse.Namespace) -> int:
    """Read the checkpoint, write what can be loaded."""
    if Path(given.source).is_dir():
        from sjd2.models.lumina import convert_checkpoint

        convert_checkpoint(given.source, given.out, force=given.force, show_progress=True)
    else:
        _convert_decoder(given)
    print(given.out)
    return 0


def _convert_decoder(given: argparse.Namespace) -> None:
    from safetensors.torch import save

    from sjd2.files import check_target, write_atomically
    from sjd2.pixels.vqgan import convert_vq_checkpoint

    out = Path(given.out)
    if out.suffix != ".safetensors":
        raise ValueError(f"{out}: must end in .safetensors")
    check_target(out, force=given.force)
    weights = save(convert_vq_checkpoint(given.source))
    write_atomically(out, lambda file: file.write(weights), force=given.force)
