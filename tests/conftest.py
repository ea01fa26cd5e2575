"""Fixtures that several rooms share."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    # Triton decides when it is imported whether its kernels are compiled or interpreted.
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
from transformers import JanusForConditionalGeneration

import sjd2
from tests.janus_model import tiny_janus


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
