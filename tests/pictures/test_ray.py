"""Ray Data over two actors, one of which dies: every picture is there once, as one process drew it.

A real local Ray; it comes with `make install` (extra "ray").
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sjd2

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")

ROOT = Path(__file__).parents[2]
CAPTIONS = ["a red ring", "two pink discs", "a green cross", "a blue square"]
ROWS = [{"id": f"{number:03d}", "prompt": CAPTIONS[number % 4]} for number in range(16)]
OPTIONS: dict[str, Any] = {"window": 9, "batch_size": 2, "seed": 3}


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    known = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    settings = {"PYTHONPATH": os.pathsep.join(known), "OMP_NUM_THREADS": "1"}
    ray.init(
        num_cpus=4,  # two actors, and the reading and writing of files
        object_store_memory=100 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        runtime_env={"env_vars": settings},
        _node_ip_address="127.0.0.1",
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


def mortal(folder: Path) -> Any:
    """The generator, but the first worker that is asked for the tenth picture dies drawing it."""

    class Mortal(sjd2.ImageGenerator):
        def __call__(self, batch: Any) -> Any:
            drawn = super().__call__(batch)
            with (folder / "drawn.txt").open("a") as file:
                file.write("".join(f"{name}\n" for name in batch["id"]))
            if "009" in batch["id"] and not (folder / "dead").exists():
                (folder / "dead").touch()
                os._exit(1)
            return drawn

    return Mortal


@pytest.mark.slow
@pytest.mark.usefixtures("_ray")
def test_every_picture_is_there_once_though_a_worker_died(folder: Path, tmp_path: Path) -> None:
    """Kills: a seed by worker or batch, a picture lost or doubled by a retry, settings that do not
    travel."""
    from ray.data.checkpoint import CheckpointConfig

    asked, out = tmp_path / "asked", tmp_path / "pictures"
    ray.data.from_items(ROWS, override_num_blocks=4).write_parquet(str(asked))
    context = ray.data.DataContext.get_current()
    context.checkpoint_config = CheckpointConfig(
        id_column="id",
        checkpoint_path=str(tmp_path / "checkpoint"),
        delete_checkpoint_on_success=False,
    )

    def drawn() -> int:
        return len((tmp_path / "drawn.txt").read_text().split())

    def run() -> None:
        ray.data.read_parquet(str(asked)).map_batches(
            mortal(tmp_path),
            fn_constructor_kwargs={"model": str(folder), **OPTIONS},
            batch_size=4,
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(size=2),
        ).write_parquet(str(out))

    run()
    assert (tmp_path / "dead").exists()
    assert drawn() > len(ROWS), "what the dead worker drew had to be drawn again"
    count = drawn()
    run()  # goes on from the checkpoint: there is nothing left
    assert drawn() == count
    context.checkpoint_config = None
    found = ray.data.read_parquet(str(out)).take_all()
    found.sort(key=lambda row: row["id"])
    alone = sjd2.ImageGenerator(folder, **OPTIONS)(
        {name: np.array([row[name] for row in ROWS]) for name in ("id", "prompt")}
    )
    assert [row["id"] for row in found] == [row["id"] for row in ROWS]
    for name in ("image", "seed", "forward_passes"):
        assert [row[name] for row in found] == list(alone[name])
