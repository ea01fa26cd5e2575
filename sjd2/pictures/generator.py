"""A model as a callable over columns of captions, for engines that map batches, such as Ray Data.

It imports none of them. Everything that a picture is follows from its row: the id, the caption and
the settings, so any number of workers, any batches and any retries give the same pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sjd2.config import DecodingConfig, checked_seed, nearest
from sjd2.patching import method_of
from sjd2.pictures.files import picture_text, png_bytes
from sjd2.pictures.loading import choose_device, load
from sjd2.pictures.many import (
    Finished,
    Wanted,
    draw_many,
    picture_seed,
    settings_of,
    settled,
)
from sjd2.ranges import RANGES
from sjd2.sampler.logprobs import LogProbsChoice, checked_choice

# A picture's own business, or a terminal's.
_NOT_TAKEN = {"seed", "progress", "trace"}
_SETTINGS = {field.name for field in fields(DecodingConfig)} - _NOT_TAKEN
_COMPANIONS = ("adapter", "corrector")


class ImageGenerator:
    """Draws batches of captions. Made once per worker, then called with batch after batch.

    Args:
        model: "demo", a folder as `save_pretrained` writes it, or a hub id.
        size: (width, height) in pixels, where the family leaves a choice; None is its usual one.
        seed: of the whole, in [0, 2^63). A picture's seed is a stable hash of this and its id.
        batch_size: pictures drawn at a time, at least 1; `__call__` takes any number.
        device: as torch names it; "auto" is a GPU if torch sees one.
        dtype: of the weights, such as "bfloat16" or a torch.dtype; None is that of the files.
        vq_decoder: weights of Chameleon's picture decoder, see `sjd2 generate --vq-decoder`.
        output_tokens: whether to return the tokens.
        output_logprobs: True returns the log-probability of every token under the distribution that
            it was drawn from, "both" also that under the model's own.
        **options: settings of `DecodingConfig` (but seed, progress and trace), `adapter` and
            `corrector` as `accelerate` takes them, and `guidance_scale`, `temperature`, `top_k`,
            `top_p`, `logits_processor`.

    Raises:
        TypeError: an unknown option.
        ValueError: a value that is not allowed, or a model that cannot be loaded.

    RNG: counter-addressed by the pictures' seeds; no global generator is touched.

    Example: the same pictures in any batches.

        >>> import numpy as np, sjd2
        >>> draw = sjd2.ImageGenerator("demo", window=16)
        >>> batch = {"id": np.array(["a", "b"]), "prompt": np.array(["a red ring", "a blue disc"])}
        >>> both, second = draw(batch), draw({name: rows[1:] for name, rows in batch.items()})
        >>> both["image"][1] == second["image"][0], both["image"][0][:4]
        (True, b'\\x89PNG')
    """

    def __init__(
        self,
        model: str | Path,
        *,
        size: tuple[int, int] | None = None,
        seed: int = 0,
        batch_size: int = 8,
        device: str = "auto",
        dtype: str | torch.dtype | None = None,
        vq_decoder: str | Path | None = None,
        output_tokens: bool = False,
        output_logprobs: LogProbsChoice = False,
        **options: Any,
    ) -> None:
        known = {*_SETTINGS, *_COMPANIONS, *RANGES, "logits_processor"}
        for name in options.keys() - known:
            raise TypeError(f"unknown option {name!r}: {nearest(name, known)}")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size={batch_size!r}: must be an integer of at least 1")
        self.seed, self.batch_size = checked_seed(seed), batch_size
        self.output_tokens, self.output_logprobs = output_tokens, checked_choice(output_logprobs)
        config = DecodingConfig(**{name: options[name] for name in options.keys() & _SETTINGS})
        companions = {name: options[name] for name in options.keys() & set(_COMPANIONS)}
        self.sampling = {
            name: value
            for name, value in options.items()
            if name not in _SETTINGS and name not in _COMPANIONS
        }
        self.pipeline = load(str(model), choose_device(device), size, vq_decoder, dtype)
        method, _ = method_of(self.pipeline.model, config, **companions)
        self.method = settled(self.pipeline, method, batch_size, **self.sampling)
        numbers = {name: one for name, one in self.sampling.items() if name in RANGES}
        self.settings = settings_of(self.method, model=str(model), size=size, **numbers)

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Draw one picture for every row.

        Args:
            batch: columns of one length: "id" (anything that is one thing as text), "prompt"
                (text), and whatever else, which is handed through. A column "seed" overrules the
                seeds that follow from the ids.

        Returns:
            The columns given, and "image" (PNG bytes that say caption, seed and settings), "seed"
            (int64), "forward_passes" (int64); if asked for, "tokens" (int64 [rows, length]),
            "logprobs" and "model_logprobs" (float32 [rows, length]).

        Raises:
            ValueError: a column is missing, ids are not unique, or a caption cannot be drawn.
        """
        for name in ("id", "prompt"):
            if name not in batch:
                raise ValueError(f"batch: has no column {name!r}; it has {', '.join(batch)}")
        names = [str(one) for one in batch["id"]]
        if len(set(names)) < len(names):
            raise ValueError("batch: ids must be unique")
        given = batch["seed"] if "seed" in batch else [None] * len(names)
        seeds = [
            picture_seed(self.seed, name) if seed is None else checked_seed(int(seed))
            for name, seed in zip(names, given, strict=True)
        ]
        wanted = map(Wanted, names, map(str, batch["prompt"]), seeds)
        found: dict[str, Finished] = {}
        draw_many(
            self.pipeline,
            wanted,
            self.method,
            self.batch_size,
            lambda one: found.update({one.wanted.id: one}),
            logprobs=self.output_logprobs,
            **self.sampling,
        )
        return {**batch, **self._columns([found[name] for name in names])}

    def _columns(self, drawn: list[Finished]) -> dict[str, NDArray[Any]]:
        images = np.empty(len(drawn), dtype=object)
        images[:] = [
            png_bytes(one.picture, picture_text(one.wanted.caption, one.wanted.seed, self.settings))
            for one in drawn
        ]
        columns: dict[str, NDArray[Any]] = {
            "image": images,
            "seed": np.array([one.wanted.seed for one in drawn], dtype=np.int64),
            "forward_passes": np.array([one.forward_passes for one in drawn], dtype=np.int64),
        }
        if self.output_tokens:
            columns["tokens"] = _stacked([one.tokens for one in drawn])
        if self.output_logprobs:
            columns["logprobs"] = _stacked([one.logprobs for one in drawn])
        if self.output_logprobs == "both":
            columns["model_logprobs"] = _stacked([one.model_logprobs for one in drawn])
        return columns


def _stacked(rows: list[torch.Tensor | None]) -> NDArray[Any]:
    found = [row.cpu() for row in rows if row is not None]
    return torch.stack(found).numpy() if found else np.empty((0, 0))
