"""What is measured: methods, windows, captions, seeds, and the order in which they are drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from sjd2.config import DecodingConfig, nearest
from sjd2.models.companions import Kind, carried, load_adapter, load_corrector

BASELINE = "ar"


@dataclass(frozen=True)
class Method:
    """One way to decode.

    Attributes:
        label: its name in tables.
        settings: of `DecodingConfig`.
        companions: which of "adapter" and "corrector" it decodes with.
        is_exact: whether committed tokens follow the model's own law.
        total_variation: measured distance between its law and the model's, where somebody has.
        during: entered around every drawing; how a rule from outside the package is brought in.
    """

    label: str
    settings: Mapping[str, Any]
    companions: tuple[str, ...] = ()
    is_exact: bool = True
    total_variation: float | None = None
    during: Callable[[], AbstractContextManager[object]] = nullcontext

    @property
    def is_same_seed(self) -> bool:
        """Whether it promises the very pictures of the baseline."""
        return self.settings.get("verify") == "gumbel"


METHODS: dict[str, Method] = {
    BASELINE: Method("ar", {"method": "ar"}),
    "independent": Method("sjd independent", {"method": "sjd", "coupling": "independent"}),
    "gumbel": Method("sjd gumbel", {"method": "sjd", "verify": "gumbel"}),
    "maximal": Method("sjd maximal", {"method": "sjd"}),
    "corrected-gumbel": Method(
        "corrected gumbel", {"method": "sjd", "verify": "gumbel"}, ("corrector",)
    ),
    "corrected": Method("corrected maximal", {"method": "sjd"}, ("corrector",)),
    "sjd2": Method("sjd2", {"method": "sjd2"}, ("adapter",)),
}


def choose_methods(
    names: tuple[str, ...] | None, companions: Mapping[str, Any]
) -> dict[str, Method]:
    """Methods by name; without names, all that the companions at hand allow.

    Args:
        names: keys of `METHODS`, or None.
        companions: the adapter and the corrector, None where there is none.

    Raises:
        ValueError: an unknown name, or a method that needs a companion that is not there.
    """

    def lacks(method: Method) -> list[str]:
        return [kind for kind in method.companions if companions.get(kind) is None]

    if names is None:
        return {name: method for name, method in METHODS.items() if not lacks(method)}
    for name in names:
        if name not in METHODS:
            raise ValueError(f"no method {name!r}: {nearest(name, METHODS)}")
        if missing := lacks(METHODS[name]):
            raise ValueError(f"method {name!r}: the model has no {missing[0]}; name its folder")
    return {name: METHODS[name] for name in names}


def companions_of(
    model: Any, adapter: str | None = "auto", corrector: str | None = "auto"
) -> dict[str, nn.Module | None]:
    """What methods may decode with, on the model's device.

    Args:
        model: of a supported family.
        adapter, corrector: a folder, "auto" for what the model carries, or None.

    Raises:
        ValueError: a folder holds a damaged one.
        FileNotFoundError: there is none in the folder.
    """
    found: dict[str, nn.Module | None] = {}
    given: dict[Kind, str | None] = {"adapter": adapter, "corrector": corrector}
    for kind, wanted in given.items():
        one: Any = carried(model, kind) if wanted == "auto" else wanted
        if isinstance(one, (str, Path)):
            one = (load_adapter if kind == "adapter" else load_corrector)(one)
        found[kind] = None if one is None else one.to(model.device)
    return found


@dataclass(frozen=True)
class Setting:
    """One row of the table: a method at a window, under what is done to the logits.

    Attributes:
        method: its name.
        window: slots; 1 for the baseline.
        guidance: guidance scale.
        temperature: of the sampling.
    """

    method: str
    window: int
    guidance: float
    temperature: float

    @property
    def slug(self) -> str:
        """As part of a path."""
        return f"{self.method}-w{self.window}-g{self.guidance:g}-t{self.temperature:g}"


@dataclass(frozen=True)
class Unit:
    """What one call of `generate` draws: some captions from one seed by one setting."""

    setting: Setting
    first: int  # caption
    captions: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class Plan:
    """Everything that an evaluation measures.

    Attributes:
        model_name: as given to `load`.
        captions: to draw.
        seeds: of every caption's pictures.
        methods: by name.
        windows: for all methods but the baseline, which has one slot.
        guidance, temperature: of the table.
        guidances, temperatures: of the curves, measured at the widest window on the first batch.
        batch: captions of one call.
        sampling: further arguments of `generate`, `top_k` and `top_p`.
        backend: of the operations.
    """

    model_name: str
    captions: tuple[str, ...]
    seeds: tuple[int, ...]
    methods: Mapping[str, Method]
    windows: tuple[int, ...]
    guidance: float
    temperature: float
    guidances: tuple[float, ...] = ()
    temperatures: tuple[float, ...] = ()
    batch: int = 8
    sampling: Mapping[str, float] = field(default_factory=dict)
    backend: str = "auto"

    def table(self) -> list[Setting]:
        """The rows of the table, the baseline first."""
        usual = (self.guidance, self.temperature)
        rows = [Setting(BASELINE, 1, *usual)] if BASELINE in self.methods else []
        for window in self.windows:
            rows += [Setting(name, window, *usual) for name in self.accelerated]
        return rows

    def curve(self, over: str) -> list[Setting]:
        """The points of a curve over "guidance" or "temperature", those of the table included."""
        usual = {"guidance": self.guidance, "temperature": self.temperature}
        others = self.guidances if over == "guidance" else self.temperatures
        if not others:
            return []
        values = sorted({*others, usual[over]})
        window = max(self.windows)
        return [
            Setting(name, window, **{**usual, over: value})
            for name in self.accelerated
            for value in values
        ]

    @property
    def accelerated(self) -> list[str]:
        """The methods that have a window."""
        return [name for name in self.methods if name != BASELINE]

    def units(self) -> Iterator[Unit]:
        """What is to be drawn, in this order.

        The methods take turns on every batch, so that a machine that changes its pace changes it
        for all of them.
        """
        table = self.table()
        curves = [*self.curve("guidance"), *self.curve("temperature")]
        alone = [setting for setting in dict.fromkeys(curves) if setting not in table]
        for seed in self.seeds:
            for first in range(0, len(self.captions), self.batch):
                captions = self.captions[first : first + self.batch]
                is_first = (seed, first) == (self.seeds[0], 0)
                for setting in table + alone * is_first:
                    yield Unit(setting, first, captions, seed)

    def config(self, setting: Setting) -> DecodingConfig:
        """How a setting decodes."""
        settings = {"window": max(setting.window, 2), **self.methods[setting.method].settings}
        return DecodingConfig(backend=self.backend, **settings)  # type: ignore[arg-type]
