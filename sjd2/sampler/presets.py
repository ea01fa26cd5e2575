"""Methods by the names that comparisons, commands and pages know them by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sjd2.companions import Companions
from sjd2.config import DecodingConfig, nearest
from sjd2.sampler.method import Method, Rule, resolve

BASELINE = "ar"


@dataclass(frozen=True)
class Preset:
    """A method, but for what is left to choose: the window, the backend, the companions' weights.

    Attributes:
        label: its name in tables.
        settings: of `DecodingConfig`.
        companions: which of "adapter" and "corrector" it decodes with.
        is_exact: whether committed tokens follow the target distribution.
        total_variation: measured distance between the distribution of its pictures and the
            model's, where somebody has.
        rule: decides windows in place of the exact rule, or None.
        does: what it does, in a sentence for those who choose.
    """

    label: str
    settings: Mapping[str, Any]
    companions: tuple[str, ...] = ()
    is_exact: bool = True
    total_variation: float | None = None
    rule: Rule | None = None
    does: str = ""

    @property
    def is_same_seed(self) -> bool:
        """Whether it promises the very pictures of the baseline."""
        return self.settings.get("verify") == "gumbel"

    def method(self, companions: Companions | None = None, **settings: Any) -> Method:
        """The method itself.

        Args:
            companions: at hand; those that it does not decode with are left alone.
            **settings: of `DecodingConfig`, beside its own.

        Raises:
            ValueError: it needs an adapter that is not there, or a setting is out of range.
        """
        config = DecodingConfig(**{**settings, **self.settings})
        method = resolve(config, companions and companions.only(self.companions))
        return method if self.rule is None else replace(method, rule=self.rule)


_GUESSES = "A window of guesses is checked in one forward"
_SAME = "the picture is the very one that ar draws from the seed"
_CORRECTED = "a small network corrects the guesses in between"
PRESETS: dict[str, Preset] = {
    BASELINE: Preset("ar", {"method": "ar"}, does="One token per forward."),
    "independent": Preset(
        "sjd independent",
        {"method": "sjd", "coupling": "independent"},
        does=f"{_GUESSES}; those that are not accepted are drawn again.",
    ),
    "gumbel": Preset(
        "sjd gumbel", {"method": "sjd", "verify": "gumbel"}, does=f"{_GUESSES}; {_SAME}."
    ),
    "maximal": Preset(
        "sjd maximal",
        {"method": "sjd"},
        does=f"{_GUESSES}; those that are not accepted are kept as often as exactness allows.",
    ),
    "corrected-gumbel": Preset(
        "corrected gumbel",
        {"method": "sjd", "verify": "gumbel"},
        ("corrector",),
        does=f"{_GUESSES}, and {_CORRECTED}; {_SAME}.",
    ),
    "corrected": Preset(
        "corrected maximal",
        {"method": "sjd"},
        ("corrector",),
        does=f"{_GUESSES}, and {_CORRECTED}; the fastest, and as exact.",
    ),
    "sjd2": Preset(
        "sjd2",
        {"method": "sjd2"},
        ("adapter",),
        does=f"{_GUESSES}; they start as noise, and the model removes it forward by forward.",
    ),
}


def choose_presets(names: Sequence[str] | None, companions: Companions | None) -> dict[str, Preset]:
    """Presets by name; without names, all that the companions at hand allow.

    Args:
        names: keys of `PRESETS`, or None.
        companions: at hand; None asks for the names alone.

    Raises:
        ValueError: an unknown name, or a preset that needs a companion that is not there.
    """

    def lacks(preset: Preset) -> list[str]:
        if companions is None:
            return []
        return [kind for kind in preset.companions if getattr(companions, kind) is None]

    if names is None:
        return {name: preset for name, preset in PRESETS.items() if not lacks(preset)}
    for name in names:
        if name not in PRESETS:
            raise ValueError(f"no method {name!r}: {nearest(name, PRESETS)}")
        if missing := lacks(PRESETS[name]):
            raise ValueError(f"method {name!r}: the model has no {missing[0]}; name its folder")
    return {name: PRESETS[name] for name in names}
