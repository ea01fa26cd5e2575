"""The denoising adapter: what a model learns so as to read noisy inputs, kept apart from it.

Low-rank updates of the backbone's linear layers, and an embedding of the noise level. Both act at
positions whose input is noise and nowhere else, so that a position with a clean input computes what
the original model computes, whatever the adapter has learned. Rank 0 leaves the embedding alone,
for a model of which all parameters were tuned.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FREQUENCIES = 32  # of the sines and cosines that a noise level is made of


class Gate:
    """Which inputs of the forward at hand are noise.

    Attributes:
        noisy: bool [R, W]; None where all are clean.
        thread: whose forwards these are, where others may run the same layers; None for all.
    """

    def __init__(self) -> None:
        self.noisy: Tensor | None = None
        self.thread: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether the forward that asks has noise among its inputs."""
        return self.noisy is not None and self.thread in (None, get_ident())


class Adapter(nn.Module):
    """What makes a frozen model a denoiser. Fresh, it changes nothing.

    Args:
        layers: (inputs, outputs) of every linear layer of the backbone, by name.
        dimensions: of the input embeddings, D.
        rank: of the updates, at least 0.
        base: `fingerprint` of the model that it belongs to.

    Attributes:
        measured: step compression of held-out captions by method, "sjd2" with this adapter and
            "sjd" without; empty before it has been trained.
    """

    def __init__(
        self, layers: Mapping[str, tuple[int, int]], dimensions: int, rank: int, base: str
    ) -> None:
        super().__init__()
        self.layers, self.dimensions, self.rank, self.base = dict(layers), dimensions, rank, base
        self.measured: dict[str, float] = {}
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for name, (inputs, outputs) in layers.items() if rank else ():
            self.down[_key(name)] = nn.Parameter(torch.randn(rank, inputs) * inputs**-0.5)
            self.up[_key(name)] = nn.Parameter(torch.zeros(outputs, rank))
        self.wave = nn.Linear(2 * FREQUENCIES, dimensions)
        nn.init.zeros_(self.wave.weight)
        nn.init.zeros_(self.wave.bias)

    def config(self) -> dict[str, Any]:
        """What `from_config` makes a fresh one of the same shape of."""
        return {
            "rank": self.rank,
            "dimensions": self.dimensions,
            "base": self.base,
            "layers": self.layers,
            "measured": self.measured,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Adapter:
        """A fresh one; raises KeyError, TypeError or ValueError where the config is no such."""
        layers = {str(name): (int(a), int(b)) for name, (a, b) in config["layers"].items()}
        adapter = cls(layers, int(config["dimensions"]), int(config["rank"]), str(config["base"]))
        if measured := config.get("measured"):
            adapter.measured = {name: float(measured[name]) for name in ("sjd2", "sjd")}
        return adapter

    @property
    def is_faster(self) -> bool:
        """Whether it draws in fewer forwards than no adapter does, as far as was measured."""
        return not self.measured or self.measured["sjd2"] > self.measured["sjd"]

    def time_embedding(self, timestep: Tensor) -> Tensor:
        """What is added to inputs at these noise levels: [B, W] in [0, 1] to [B, W, D]."""
        octaves = torch.linspace(0, 9, FREQUENCIES, device=timestep.device)
        angles = 0.5 * math.pi * timestep[..., None].float() * 2**octaves
        embedding: Tensor = self.wave(torch.cat((angles.sin(), angles.cos()), dim=-1))
        return embedding

    @contextmanager
    def attached(self, backbone: nn.Module) -> Iterator[Gate]:
        """Let the updates act on a backbone, at the positions that the gate marks as noisy.

        Raises:
            ValueError: the backbone has other layers than the adapter was made for.
        """
        gate = Gate()
        found = linear_layers(backbone)
        if found != self.layers:
            odd = sorted(set(found.items()) ^ set(self.layers.items()))
            raise ValueError(f"adapter: made for other layers than the model's, such as {odd[0]}")
        modules = dict(backbone.named_modules()) if self.rank else {}
        handles = [
            modules[name].register_forward_hook(partial(self._update, _key(name), gate))
            for name in self.layers
            if self.rank
        ]
        try:
            yield gate
        finally:
            for handle in handles:
                handle.remove()

    def _update(
        self, key: str, gate: Gate, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor
    ) -> Tensor:
        if gate.noisy is None or not gate.is_open:
            return output
        down, up = self.down[key].to(output.dtype), self.up[key].to(output.dtype)
        update = F.linear(F.linear(inputs[0], down), up)
        # Not `output + 0 * update`: a clean position keeps its bits, infinite updates or not.
        return torch.where(gate.noisy.unsqueeze(-1), output + update, output)


def linear_layers(backbone: nn.Module) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of every linear layer of a backbone, by name, without those of a LoRA."""
    layers = {
        without_lora(name): (module.in_features, module.out_features)
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear)
    }
    return {name: sizes for name, sizes in layers.items() if name is not None}


def without_lora(name: str) -> str | None:
    """What a layer or weight is called where peft's LoRA is not, None for what LoRA adds."""
    return None if ".lora_" in name else name.replace(".base_layer", "")


def _key(name: str) -> str:
    """A layer's name as parameters may be called."""
    return name.replace(".", "-")
