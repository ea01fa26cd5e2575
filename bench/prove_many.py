"""The same pictures whoever draws them: one process, torchrun and Ray, each killed in the middle.

    python bench/prove_many.py                    # 200 captions, a few minutes on 2 cores
    python bench/prove_many.py --captions 20

Held-out captions of the embedded model, drawn into a folder four times: by one process without a
disturbance; by one that is killed, and the same command once more; by two processes of torchrun,
killed likewise; and by two workers of Ray Data of which one dies. Pixels must be equal, picture by
picture. The status is 0 if they are.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import sjd2
from sjd2.demo.scenes import held_out_captions

ROOT = Path(__file__).resolve().parent.parent
WINDOW, ROWS = 16, 8
Pictures = dict[str, NDArray[np.uint8]]


def command(captions: Path, out: Path, processes: int = 1) -> list[str]:
    """What a user would type."""
    launch = ["torch.distributed.run", "--nproc_per_node", str(processes), "-m"]
    options = ["--batch", str(ROWS), "--window", str(WINDOW), "--quiet"]
    start = [sys.executable, "-m", *(launch if processes > 1 else []), "sjd2", "generate"]
    return [*start, "--prompts", str(captions), "--out", str(out), *options]


def run(call: list[str], out: Path, kill_at: int | None = None) -> None:
    """Run a command; where it has drawn `kill_at` pictures, end it without a warning."""
    environment = {**os.environ, "PYTHONPATH": _path(), "OMP_NUM_THREADS": "1"}
    going = subprocess.Popen(call, env=environment, start_new_session=True)
    while going.poll() is None:
        if kill_at is not None and len(list(out.glob("*.png"))) >= kill_at:
            os.killpg(going.pid, signal.SIGKILL)
            going.wait()
            return
        time.sleep(0.05)
    if going.returncode:
        raise SystemExit(f"{call}: failed with status {going.returncode}")
    if kill_at is not None:
        raise SystemExit(
            f"{call}: finished before {kill_at} pictures were seen, so nothing was killed"
        )


def by_ray(captions: list[str], folder: Path) -> Pictures:
    """Two workers of Ray Data; the one that gets the picture in the middle dies with it."""
    import ray

    ray.init(
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        runtime_env={"env_vars": {"PYTHONPATH": _path(), "OMP_NUM_THREADS": "1"}},
    )
    fatal, dead = f"{len(captions) // 2:06d}", folder / "dead"

    class Mortal(sjd2.ImageGenerator):
        def __call__(self, batch: Any) -> Any:
            drawn = super().__call__(batch)
            if fatal in batch["id"] and not dead.exists():
                dead.touch()
                os._exit(1)
            return drawn

    rows = [{"id": f"{at + 1:06d}", "prompt": one} for at, one in enumerate(captions)]
    drawn = ray.data.from_items(rows, override_num_blocks=8).map_batches(
        Mortal,
        fn_constructor_kwargs={"model": "demo", "window": WINDOW, "batch_size": ROWS},
        batch_size=4 * ROWS,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=2),
    )
    found = {row["id"]: _pixels(io.BytesIO(row["image"])) for row in drawn.take_all()}
    ray.shutdown()
    if not dead.exists():
        raise SystemExit("no worker died")
    return found


def in_folder(out: Path) -> Pictures:
    """The pictures of a folder by their ids."""
    return {path.stem: _pixels(path) for path in sorted(out.glob("*.png"))}


def _pixels(file: Any) -> NDArray[np.uint8]:
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


def _path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--captions", type=int, default=200)
    captions = held_out_captions(parser.parse_args().captions, seed=9)
    half = len(captions) // 2
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        file = folder / "captions.txt"
        file.write_text("".join(f"{one}\n" for one in captions))
        began = time.perf_counter()
        run(command(file, folder / "alone"), folder / "alone")
        print(f"one process: {time.perf_counter() - began:.0f} s", flush=True)
        alone = in_folder(folder / "alone")
        others = {}
        for name, processes in (("one process, killed", 1), ("torchrun, killed", 2)):
            out, began = folder / str(processes), time.perf_counter()
            run(command(file, out, processes), out, kill_at=half)
            left = len(list(out.glob("*.png")))
            run(command(file, out, processes), out)
            others[name] = in_folder(out)
            seconds = time.perf_counter() - began
            print(f"{name} with {left} pictures: {seconds:.0f} s", flush=True)
        began = time.perf_counter()
        others["Ray, a worker dead"] = by_ray(captions, folder)
        print(f"Ray, a worker dead: {time.perf_counter() - began:.0f} s", flush=True)
    status = 0 if len(alone) == len(captions) else 1
    for name, found in others.items():
        same = sum(np.array_equal(found.get(one), alone[one]) for one in alone)
        is_same = same == len(captions) == len(found)
        status |= not is_same
        print(f"{name}: {len(found)} pictures, {same} of {len(captions)} the same")
    return status


if __name__ == "__main__":
    sys.exit(main())
