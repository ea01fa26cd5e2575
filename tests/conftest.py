"""Fixtures that several rooms share."""

from __future__ import annotations

import os
from pathlib import Path

import torch

if not torch.cuda.is_available():
    # Triton decides when it is imported whether its kernels are compiled or interpreted.
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
from transformers import JanusForConditionalGeneration

import sjd2
from sjd2.demo.build import build_generation_config, build_processor, save
from sjd2.demo.captions import VOCABULARY
from tests.janus_model import LENGTH, tiny_janus


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # The suite is built of small models: more threads only wait for each other.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def _built_janus() -> JanusForConditionalGeneration:
    return tiny_janus()


@pytest.fixture
def janus(_built_janus: JanusForConditionalGeneration) -> JanusForConditionalGeneration:
    """The tiny model, unaccelerated at the start of every test."""
    return sjd2.restore(_built_janus)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Janus with a processor, as `save_pretrained` writes them."""
    path = tmp_path_factory.mktemp("model")
    processor = build_processor(VOCABULARY)
    model = tiny_janus()
    # Upstream's default is a grid for pictures of another size.
    model.config.vq_config.num_patches = int(LENGTH**0.5)
    # Pictures are read at the size at which the model draws them: a token is 2 x 2 pixels.
    side = 2 * int(LENGTH**0.5)
    processor.image_processor.size = {"height": side, "width": side}
    model.generation_config = build_generation_config(processor.tokenizer, guidance=2.0)
    save(model, processor, path)
    return path
