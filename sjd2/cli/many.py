"""What `sjd2 generate` does where there are more captions than one call should draw.

Under `torchrun` every process takes its share. Imported by `run` only.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch

from sjd2.cli import common
from sjd2.config import DecodingConfig, checked_seed
from sjd2.patching import method_of
from sjd2.pictures.folder import PictureFolder
from sjd2.pictures.many import Finished, Wanted, draw_many, settings_of, settled
from sjd2.pictures.prompts import STDIN, count_prompts, listed, read_prompts, share
from sjd2.progress import Progress


def run(given: argparse.Namespace, config: DecodingConfig) -> int:
    """Draw into a folder what is not there yet."""
    # As torchrun and `accelerate launch` say it.
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1 and given.prompts == STDIN:
        raise ValueError("--prompts -: several processes cannot share standard input; name a file")
    if given.captions:
        checked_seed(given.seed + given.n - 1)
        total: int | None = len(given.captions) * given.n
        wanted = listed(given.captions, given.seed, given.n)
    else:
        total = count_prompts(given.prompts, given.n)
        wanted = read_prompts(given.prompts, given.seed, given.n)
    # What is wrong with the first line is said before a model is loaded.
    first = list(islice(wanted, 1))
    if not first:
        raise ValueError(f"--prompts {given.prompts}: holds no caption")
    if world > 1 and given.device == "auto" and torch.cuda.is_available():
        given.device = f"cuda:{os.environ.get('LOCAL_RANK', rank)}"
    pipeline = common.load_pipeline(given, [one.caption for one in first])
    sampling: dict[str, Any] = common.sampling_of(given)
    method, _ = method_of(pipeline.model, config, *common.companions_of(given))
    common.refuse_unused(given, [method])
    method = settled(pipeline, method, given.batch, **sampling)
    settings = settings_of(method, **common.named_settings(given), **sampling)
    folder = PictureFolder(Path(given.out).expanduser(), settings, force=given.force, rank=rank)
    mine = share(chain(first, wanted), rank, world)
    share_of_all = total and math.ceil((total - rank) / world)
    is_shown, skipped = common.shows_progress(given), 0
    progress = Progress("drawing", "pictures", share_of_all, is_shown=is_shown)
    with folder.opened(), progress:

        def missing() -> Iterator[Wanted]:
            nonlocal skipped
            for one in mine:
                if folder.has(one):
                    skipped += 1
                    progress.skip()
                else:
                    yield one

        def keep(drawn: Finished) -> None:
            progress.update(progress.done + 1, str(folder.add(drawn)))

        stats = draw_many(pipeline, missing(), method, given.batch, keep, **sampling)
    if given.json:
        common.print_json(
            given,
            model=given.model,
            settings=settings,
            out=str(folder.path),
            manifest=str(folder.manifest),
            drawn=stats.pictures,
            skipped=skipped,
            stats=asdict(stats) | {"tokens_per_forward": stats.tokens_per_forward},
        )
        return 0
    if not given.quiet:
        print(f"{stats.pictures} pictures drawn in {stats.seconds:.1f} s, {skipped} were there")
    print(folder.path)
    return 0
