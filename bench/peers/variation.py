"""How far a method's pictures are from the distribution of a model that can be enumerated."""

from __future__ import annotations

from math import pi

import torch

from sjd2.protocol import Sampling
from sjd2.sampler import decode
from sjd2.sampler.presets import Preset
from tests.table_model import TableModel, make_request, picture_index

_PROMPT = (2, 3, 1)
_ROWS = 20_000  # pictures of one call


def total_variation(preset: Preset, pictures: int, window: int = 5) -> tuple[float, float]:
    """Half the summed difference between frequencies of whole pictures and their probabilities.

    Args:
        preset: decodes without companions.
        pictures: sampled, from the seeds 0, 1, ...
        window: slots; of pictures of five tokens, over a vocabulary of three.

    Returns:
        The distance, and what chance alone shows on average for an exact rule.
    """
    model = TableModel(length=5)
    target = model.picture_probabilities(_PROMPT, Sampling(True))
    method = preset.method(window=window, backend="eager")
    counts = torch.zeros_like(target)
    for first in range(0, pictures, _ROWS):
        seeds = range(first, min(first + _ROWS, pictures))
        request = make_request(model, [_PROMPT] * len(seeds), Sampling(True))
        tokens, _ = decode(model, request, method, seeds)
        counts += torch.bincount(picture_index(tokens, model.vocab_size), minlength=len(target))
    distance = (counts / pictures - target).abs().sum() / 2
    chance = (2 * target * (1 - target) / (pi * pictures)).sqrt().sum() / 2
    return float(distance), float(chance)
