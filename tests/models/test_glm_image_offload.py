"""GLM-Image with weights elsewhere, by diffusers' `enable_model_cpu_offload` or by accelerate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sjd2
from tests.glm_image_model import asked, tiny_glm_image
from tests.models.test_glm_image_pipeline import draw, pipe
from tests.models.test_offload import WAYS, offloaded

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


@pytest.mark.parametrize("way", WAYS)
def test_an_offloaded_model_draws_what_it_draws_at_home(way: str, tmp_path: Path) -> None:
    """From words: pictures in a prompt fail upstream, whose tokenizer reads a weight on "meta".

    Kills: prompts asked to be on "meta".
    """
    inputs = asked(tiny_glm_image())
    expected = sjd2.accelerate(tiny_glm_image(), window=7).generate(**inputs, do_sample=False)
    model = sjd2.accelerate(offloaded(tiny_glm_image(), way, tmp_path), window=7)
    assert torch.equal(model.generate(**inputs, do_sample=False), expected)
