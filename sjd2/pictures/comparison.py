"""The same captions and seeds drawn by several methods: the pictures, and what each took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from PIL import Image

from sjd2.companions import find_companions
from sjd2.config import DecodingConfig
from sjd2.models import family_of
from sjd2.pictures.drawing import Drawing, draw, verdicts
from sjd2.pictures.gallery import Column, compose, text_table
from sjd2.pictures.pipeline import Pipeline
from sjd2.sampler import resolve
from sjd2.sampler.presets import BASELINE, PRESETS, choose_presets


@dataclass(frozen=True)
class Contender:
    """One method of a comparison.

    Attributes:
        method: a key of `PRESETS`.
        drawing: what it drew.
        same: per picture, whether its tokens are those of the baseline; None without a baseline.
        passed: per picture, the checker's verdict; None without one.
    """

    method: str
    drawing: Drawing
    same: tuple[bool, ...] | None
    passed: tuple[bool | None, ...]

    @property
    def label(self) -> str:
        """The method in words."""
        return PRESETS[self.method].label

    @property
    def forwards(self) -> float:
        """Forwards of the average picture."""
        stats = self.drawing.stats
        return sum(stats.forward_passes) / stats.images

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pictures as plain JSON-ready values."""
        return {
            "method": self.method,
            "label": self.label,
            "same_as_ar": None if self.same is None else list(self.same),
            "passed": list(self.passed),
            "stats": self.drawing.stats.to_dict(),
        }


def compare(
    pipeline: Pipeline,
    captions: Sequence[str],
    seed: int,
    config: DecodingConfig,
    methods: tuple[str, ...] | None = None,
    model_name: str = "",
    announce: Callable[[str], object] = lambda label: None,
    **sampling: float,
) -> list[Contender]:
    """Draw the captions by each method from the same seed.

    Args:
        pipeline, captions, config, **sampling: as for `draw`; a method overrules its own
            settings in `config`.
        seed: of every picture.
        methods: keys of `PRESETS`, in the order of the columns; None is all that the model has
            companions for.
        model_name: as given to `load`, to find the checker.
        announce: called with what is drawn next.

    Returns:
        One contender per method.

    Raises:
        ValueError: as `draw`; a method needs a companion that the model does not have.
    """
    companions = find_companions(pipeline.model, family_of(pipeline.model))
    chosen = choose_presets(methods, companions)
    drawings: dict[str, Drawing] = {}
    # One picture that does not count: the first call pays for set-up. Of the longest caption, as it
    # may be too long.
    announce("one picture to warm up")
    draw(pipeline, [max(captions, key=len)], [seed], resolve(config, companions), **sampling)
    settings = {field.name: getattr(config, field.name) for field in fields(config)}
    for name, preset in chosen.items():
        announce(preset.label)
        method = preset.method(companions, **settings)
        drawings[name] = draw(pipeline, captions, [seed], method, **sampling)
    baseline = drawings.get(BASELINE)
    return [
        Contender(
            method=method,
            drawing=drawing,
            same=None
            if baseline is None
            else tuple((drawing.tokens == baseline.tokens).all(dim=1).tolist()),
            passed=tuple(verdicts(model_name, drawing)),
        )
        for method, drawing in drawings.items()
    ]


def comparison_picture(
    contenders: Sequence[Contender], *, shows_seconds: bool = True
) -> Image.Image:
    """Captions in rows, methods in columns, forwards and seconds above each column.

    Args:
        contenders: of `compare`.
        shows_seconds: False leaves out what differs between two runs.
    """
    most = max(contender.forwards for contender in contenders)
    columns = [
        Column(
            title=contender.label,
            notes=(
                f"{contender.forwards:.0f} forwards"
                + f" · {contender.drawing.stats.seconds:.1f} s" * shows_seconds,
                f"{contender.drawing.stats.tokens_per_forward:.1f} tokens per forward",
            ),
            share=contender.forwards / most,
            pictures=contender.drawing.pictures,
            badge="same as ar" if _sameness(contender) == "yes" else "",
            is_baseline=contender.method == BASELINE,
        )
        for contender in contenders
    ]
    return compose(contenders[0].drawing.captions, columns)


def comparison_table(contenders: Sequence[Contender]) -> str:
    """One line per method; a column of the checker's verdicts if there are any."""
    head = ["method", "forwards", "step compression", "seconds", "same as ar"]
    is_judged = any(verdict is not None for verdict in contenders[0].passed)
    rows = [head + ["as captioned"] * is_judged]
    for contender in contenders:
        stats = contender.drawing.stats
        row = [
            contender.label,
            f"{contender.forwards:.1f}",
            f"{stats.step_compression:.2f}x",
            f"{stats.seconds:.2f}",
            _sameness(contender),
        ]
        judged = [verdict for verdict in contender.passed if verdict is not None]
        rows.append(row + [f"{sum(judged)} of {len(judged)}"] * is_judged)
    return text_table(rows)


def _sameness(contender: Contender) -> str:
    if contender.same is None or contender.method == BASELINE:
        return "-"
    if all(contender.same):
        return "yes"
    return f"{sum(contender.same)} of {len(contender.same)}" if any(contender.same) else "no"
