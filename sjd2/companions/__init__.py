"""What is trained beside a frozen model and belongs to it: made, found, saved and loaded here.

An *adapter* lets the model read noise (method "sjd2"); a *corrector* re-drafts windows between
forwards. Neither changes what is drawn.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sjd2.companions.adapter import Adapter, linear_layers
from sjd2.companions.corrector import Corrector, neighbour_offsets
from sjd2.companions.files import (
    C,
    Companion,
    Kind,
    fingerprint,
    load_adapter,
    load_corrector,
    save_adapter,
    save_corrector,
    with_article,
)
from sjd2.placement import device_of
from sjd2.protocol import ImageModel

__all__ = [
    "Adapter",
    "Companions",
    "Corrector",
    "carried",
    "check_base",
    "find_companions",
    "fingerprint",
    "load_adapter",
    "load_corrector",
    "make_adapter",
    "make_corrector",
    "save_adapter",
    "save_corrector",
]


def make_adapter(family: ImageModel, rank: int) -> Adapter:
    """A fresh adapter for a model, on its device, in float32.

    Raises:
        ValueError: a rank below 0.

    RNG: torch's default generator.
    """
    _check_rank(rank, 0)
    table = family.embedding_table()
    layers = linear_layers(family.backbone)
    return Adapter(layers, table.shape[1], rank, fingerprint(family.backbone)).to(table.device)


def make_corrector(family: ImageModel, rank: int, row_width: int | None = None) -> Corrector:
    """A fresh corrector for a model, on its device, in float32.

    Args:
        family: the model.
        rank: inner width.
        row_width: tokens in a row of the pictures; None is that of the size the model is known for.

    Raises:
        ValueError: a rank below 1.

    RNG: torch's default generator.
    """
    _check_rank(rank, 1)
    table = family.embedding_table()
    offsets = neighbour_offsets(row_width or family.geometry.row_width)
    vocab_size, dimensions = table.shape
    base = fingerprint(family.backbone)
    # A backbone's states have the dimensions of its inputs.
    return Corrector(offsets, dimensions, 2 * dimensions, vocab_size, rank, base).to(table.device)


@dataclass(frozen=True)
class Companions:
    """The adapter and the corrector that a model draws with, if any.

    Attributes:
        adapter_is_named: whether somebody asked for this very adapter, rather than for whatever
            the model carries.
    """

    adapter: Adapter | None = None
    corrector: Corrector | None = None
    adapter_is_named: bool = True

    def only(self, kinds: Iterable[str]) -> Companions:
        """Those of the given kinds."""
        return replace(
            self,
            adapter=self.adapter if "adapter" in kinds else None,
            corrector=self.corrector if "corrector" in kinds else None,
        )


def find_companions(
    model: Any,
    family: ImageModel,
    adapter: Adapter | str | Path | None = "auto",
    corrector: Corrector | str | Path | None = "auto",
    known: Companions | None = None,
    *,
    force: bool = False,
) -> Companions:
    """The companions that a call asks for, seen to belong to the model, on its device.

    Args:
        model: the transformers model.
        family: of the model.
        adapter, corrector: one of them, its folder, "auto" for what the model carries, or None.
        known: what the model was given before; "auto" takes these first, then the folders beside
            the model's weights. One that cannot be used is left out, with a warning.
        force: take the one that is named although it was trained on other weights.

    Raises:
        FileNotFoundError: there is none in the folder.
        TypeError: something else than a companion or a folder.
        ValueError: a damaged one, or another model's.
    """
    known = known or Companions()
    is_named = adapter != "auto"
    if adapter == "auto" and known.adapter is not None:
        is_named = known.adapter_is_named
    return Companions(
        _found(model, family, "adapter", Adapter, load_adapter, adapter, known.adapter, force),
        _found(
            model, family, "corrector", Corrector, load_corrector, corrector, known.corrector, force
        ),
        is_named,
    )


def _found(
    model: Any,
    family: ImageModel,
    kind: Kind,
    wanted: type[C],
    load: Callable[[Path], C],
    given: Any,
    known: C | None,
    force: bool,
) -> C | None:
    is_auto = isinstance(given, str) and given == "auto"
    if is_auto:
        given = carried(model, kind) if known is None else known
    if given is None:
        return None
    try:
        if isinstance(given, (str, Path)):
            given = load(Path(given)).to(device_of(model))
        if not isinstance(given, wanted):
            raise TypeError(
                f"{kind} is a {type(given).__name__}, must be a {wanted.__name__} or its folder"
            )
        check_base(given, kind, family, force=force and not is_auto)
    except (FileNotFoundError, ValueError) as error:
        if not is_auto:
            raise
        # It would change speed alone, so nobody should have to do without pictures for it.
        warnings.warn(
            f"{kind} is left out: {error} ({kind}=None leaves it out without this warning)",
            stacklevel=5,
        )
        return None
    return given


def carried(model: Any, kind: Kind) -> Path | None:
    """The folder of the companion that lies beside a model's weights, if there is one."""
    beside = Path(getattr(model, "name_or_path", None) or "/nowhere") / kind
    return beside if (beside / f"{kind}.json").is_file() else None


def check_base(
    companion: Companion, kind: Kind, family: ImageModel, *, force: bool = False
) -> None:
    """See to it that an adapter or a corrector is used with the model that it was trained on.

    Args:
        companion: the adapter or corrector.
        kind: which of them.
        family: the model.
        force: ask for a model of the same sizes only.

    Raises:
        ValueError: it is another model.
    """
    table = family.embedding_table()
    if isinstance(companion, Adapter):
        fits = companion.layers == linear_layers(family.backbone)
        fits &= companion.dimensions == table.shape[1]
    else:
        fits = (companion.shift.out_features, companion.beside.shape[1]) == tuple(table.shape)
    if not fits:
        raise ValueError(f"{kind}: made for a model with layers or a vocabulary of other sizes")
    mine = fingerprint(family.backbone)
    if companion.base != mine and not force:
        raise ValueError(
            f"{kind}: trained on a model with fingerprint {companion.base}, this one has {mine}; "
            f"load the weights it was trained on, or fine-tune {with_article(kind)} for these; "
            "quantised, half-precision or merged weights have fingerprints of their own: "
            "force=True takes it for them"
        )


def _check_rank(rank: int, least: int) -> None:
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < least:
        raise ValueError(f"rank={rank!r}: must be an integer of at least {least}")
