"""Noise levels: which a slot passes on its way from noise to a token, and where in the window."""

from __future__ import annotations

import torch
from torch import Tensor

from sjd2.config import Schedule

_SMALLEST, _RHO = 0.002, 7.0  # as Karras et al. 2022


def noise_levels(steps: int, schedule: Schedule) -> Tensor:
    """The timestep of a slot that has 0, 1, ... `steps` denoising steps to go.

    Args:
        steps: denoising steps from pure noise to a clean token, at least 1.
        schedule: "linear", or "karras": equal steps in the seventh root, so most of them are small.

    Returns:
        float32 [steps + 1], rising from 0 (clean) to 1 (pure noise).

    Source: arXiv 2510.08994, section 4.2; Karras et al. 2022, arXiv 2206.00364.
    """
    to_go = torch.arange(steps + 1, dtype=torch.float64)
    levels = to_go / steps
    if schedule == "karras":
        least = _SMALLEST ** (1 / _RHO)
        levels = (least + (to_go - 1) / max(steps - 1, 1) * (1 - least)) ** _RHO
        levels[0], levels[-1] = 0.0, 1.0
    return levels.to(torch.float32)


def steps_allowed(columns: int, steps: int, width: int, device: torch.device) -> Tensor:
    """The most denoising steps that a draft may have to go, by its column: int64 [columns].

    A window of `width` columns is cut into `steps + 1` bands of equal size. The first is clean, for
    a noisy slot ends verification; each further one may be noisier by a step. So the first window
    of a picture starts staggered, and no row that advances fast is held up by noise at its front.
    """
    column = torch.arange(columns, device=device)
    allowed: Tensor = (column * (steps + 1) // width).clamp(max=steps)
    return allowed
