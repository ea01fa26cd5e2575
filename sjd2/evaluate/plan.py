"""What is measured: methods, windows, captions, seeds, and the order in which they are drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sjd2.companions import Companions
from sjd2.sampler import Method
from sjd2.sampler.presets import BASELINE, Preset


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
    methods: Mapping[str, Preset]
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

    def method(self, setting: Setting, companions: Companions | None = None) -> Method:
        """How a setting decodes, with what it needs of the companions at hand."""
        preset = self.methods[setting.method]
        return preset.method(companions, window=max(setting.window, 2), backend=self.backend)
