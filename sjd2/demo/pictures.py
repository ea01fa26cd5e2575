"""A folder of captioned pictures to fine-tune on: `python -m sjd2.demo.pictures --out FOLDER`."""

import argparse
import json
from pathlib import Path

from PIL import Image

from sjd2.demo.scenes import render, sample_scene
from sjd2.progress import Progress


def write_pictures(folder: Path, number: int, first_seed: int = 0) -> None:
    """Scenes of combinations that the embedded model was trained on, and their captions.

    Args:
        folder: receives PNG files and metadata.jsonl.
        number: pictures.
        first_seed: of the first; the others follow.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    with Progress("drawing scenes", "pictures", number) as progress:
        for seed in range(first_seed, first_seed + number):
            scene = sample_scene(seed, "train")
            name = f"{seed:06d}.png"
            Image.fromarray(render(scene)).save(folder / name)
            lines.append(json.dumps({"file_name": name, "text": scene.caption}))
            progress.update(len(lines))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m sjd2.demo.pictures", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("-n", "--number", type=int, default=1000, help="pictures (default: 1000)")
    given = parser.parse_args()
    write_pictures(given.out, given.number)


if __name__ == "__main__":
    main()
