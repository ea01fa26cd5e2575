"""Two processes train what one trains: data parallel (DDP) and sharded (FSDP2), over gloo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from sjd2.companions import make_adapter
from sjd2.finetune.objective import NextCleanToken, WindowObjective
from sjd2.finetune.rollouts import Rollouts
from sjd2.finetune.settings import FinetuneSettings
from sjd2.finetune.trainer import Pictures
from sjd2.models import family_of
from sjd2.sampler.schedule import noise_levels
from tests.finetune.test_packing import CONFIG, INPUTS, SAMPLING
from tests.janus_model import LENGTH, VOCAB, tiny_janus

WORLD = 2


def objective_and_batch(full: bool) -> tuple[nn.Module, dict[str, Any]]:
    """The same in every process."""
    model = tiny_janus()
    family = family_of(model)
    torch.manual_seed(3)
    adapter = make_adapter(family, 0 if full else 2)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    if full:
        tokens = torch.randint(VOCAB, (3, LENGTH), generator=torch.Generator().manual_seed(0))
        levels = noise_levels(2, FinetuneSettings().schedule)
        objective: nn.Module = NextCleanToken(family, adapter, model, levels, SAMPLING)
        return objective, next(iter(Pictures(INPUTS, tokens, batch=4, seed=5)))
    model.requires_grad_(False)
    rollouts = Rollouts(
        family, adapter, INPUTS, SAMPLING, CONFIG, batch=4, windows=2, reuse=1, seed=5
    )
    batch = next(iter(rollouts))
    # Means over a half are means over the whole only where all slots count.
    batch["windows"] = batch["windows"]._replace(
        valid=torch.ones_like(batch["windows"].valid), start=batch["windows"].start.clamp(max=40)
    )
    return WindowObjective(family, adapter, SAMPLING), batch


def rows_of(value: Any, rows: slice) -> Any:
    if isinstance(value, Tensor):
        return value[rows]
    if isinstance(value, dict):
        return {name: rows_of(one, rows) for name, one in value.items()}
    return type(value)(*(rows_of(one, rows) for one in value))


def step(objective: nn.Module, batch: dict[str, Any]) -> None:
    trained = [p for p in objective.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=0.5)
    objective(**batch)["loss"].backward()
    optimiser.step()


def weights(objective: nn.Module) -> dict[str, Tensor]:
    return {
        name: (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone()
        for name, p in objective.named_parameters()
        if p.requires_grad
    }


def work(rank: int, how: str, full: bool, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD
    )
    objective, batch = objective_and_batch(full)
    share = len(batch["tokens"]) // WORLD
    mine = rows_of(batch, slice(rank * share, (rank + 1) * share))
    if how == "ddp":
        # Janus' tower that reads pictures has no part in drawing.
        step(DistributedDataParallel(objective, find_unused_parameters=full), mine)
    else:
        mesh = dist.device_mesh.init_device_mesh("cpu", (WORLD,))
        fully_shard(objective, mesh=mesh)
        step(objective, mine)
    found = weights(objective)
    if rank == 0:
        torch.save(found, f"{folder}/found.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ddp", "fsdp2"])
@pytest.mark.parametrize("full", [False, True], ids=["adapter", "full"])
def test_two_processes_take_the_step_of_one(how: str, full: bool, tmp_path: Path) -> None:
    """Kills: gradients of a part not shared, noise that depends on the process, a level that is
    told to a sharded embedding.
    """
    objective, batch = objective_and_batch(full)
    before = weights(objective)
    step(objective, batch)
    expected = weights(objective)
    mp.spawn(work, args=(how, full, str(tmp_path)), nprocs=WORLD)
    found = torch.load(tmp_path / "found.pt")
    assert found.keys() == expected.keys()
    moved = 0
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=1e-5, rtol=1e-4)
        moved += int(not torch.equal(weight, before[name]))
    assert moved > 3
