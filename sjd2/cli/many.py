"""What `sjd2 generate` does where there are more captions than one call should draw.

Under `torchrun` every process takes its share. Imported by `run` only.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from tqdm import tqdm

from sjd2.cli import common
from sjd2.config import DecodingConfig, checked_seed
from sjd2.patching import method_of
from sjd2.pictures.folder import PictureFolder
from sjd2.pictures.many import Finished, Wanted, draw_many, settings_of, with_window
from sjd2.pictures.prompts import STDIN, count_prompts, listed, read_prompts, share

_SAYS_EVERY = 30.0  # seconds, where nobody looks at a bar


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
    if world > 1 and given.device == "auto" and torch.cuda.is_available():
        given.device = f"cuda:{os.environ.get('LOCAL_RANK', rank)}"
    pipeline = common.load_pipeline(given, [one.caption for one in first])
    sampling: dict[str, Any] = common.sampling_of(given)
    method, _ = method_of(pipeline.model, config, *common.companions_of(given))
    common.refuse_unused(given, [method])
    method = with_window(pipeline, method, given.batch, **sampling)
    settings = settings_of(method, **common.named_settings(given), **sampling)
    folder = PictureFolder(Path(given.out).expanduser(), settings, force=given.force, rank=rank)
    mine = share(chain(first, wanted), rank, world)
    with folder.opened(), _Report(given, total and math.ceil(total / world)) as report:

        def missing() -> Iterator[Wanted]:
            for one in mine:
                if folder.has(one):
                    report.skip()
                else:
                    yield one

        def keep(drawn: Finished) -> None:
            report.note(folder.add(drawn))

        stats = draw_many(pipeline, missing(), method, given.batch, keep, **sampling)
    if given.json:
        common.print_json(
            given,
            model=given.model,
            settings=settings,
            out=str(folder.path),
            manifest=str(folder.manifest),
            drawn=stats.pictures,
            skipped=report.skipped,
            stats=asdict(stats) | {"tokens_per_forward": stats.tokens_per_forward},
        )
        return 0
    if not given.quiet:
        print(
            f"{stats.pictures} pictures drawn in {stats.seconds:.1f} s, {report.skipped} were there"
        )
    print(folder.path)
    return 0


class _Report:
    """A bar where somebody looks, else a line now and then; both on stderr.

    Args:
        given: of the command line.
        total: pictures of this process, None where nobody knows.
    """

    def __init__(self, given: argparse.Namespace, total: int | None) -> None:
        self.total, self.skipped, self.drawn = total, 0, 0
        self.talks = not common.shows_progress(given) and not given.quiet and not given.json
        self.bar = tqdm(total=total, unit="picture", disable=not common.shows_progress(given))
        self.started = self.said = time.monotonic()

    def __enter__(self) -> _Report:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.close()

    def skip(self) -> None:
        """A picture was there already."""
        self.skipped += 1
        self.bar.update()

    def note(self, path: Path) -> None:
        """A picture was written."""
        self.drawn += 1
        self.bar.update()
        now = time.monotonic()
        if self.talks and now - self.said >= _SAYS_EVERY:
            self.said = now
            of = "" if self.total is None else f" of {self.total}"
            pace = self.drawn / (now - self.started)
            done = self.drawn + self.skipped
            print(f"sjd2: {done}{of} pictures, {pace:.2f} a second, {path}", file=sys.stderr)
