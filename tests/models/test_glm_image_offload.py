"""GLM-Image whose halves take turns: diffusers' `enable_model_cpu_offload`, here on a CPU alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import sjd2
from tests.models.test_glm_image_pipeline import draw, pipe

__all__ = ["pipe"]  # a fixture


def test_the_half_that_draws_tokens_is_brought_once(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: windows fed to weights that nobody brought, or to a hook that fires for each."""
    encoder = sjd2.accelerate(pipe.vision_language_encoder, window=16)
    expected = draw(pipe, "a red ring")
    try:
        pipe.enable_model_cpu_offload(device="cpu")
        hook, brought = encoder._hf_hook, []
        bring = hook.pre_forward

        def noted(module: Any, *args: Any, **kwargs: Any) -> Any:
            brought.append(module)
            return bring(module, *args, **kwargs)

        monkeypatch.setattr(hook, "pre_forward", noted)
        drawn = draw(pipe, "a red ring")
        assert brought == [encoder]
        assert all(np.array_equal(one, other) for one, other in zip(drawn, expected, strict=True))
    finally:
        pipe.remove_all_hooks()
