"""Other ways from noise to tokens: exact, and the noise is where they say."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sjd2.companions import Companions
from sjd2.companions.adapter import Gate
from sjd2.config import DecodingConfig
from sjd2.kernels import Verdict
from sjd2.protocol import Sampling
from sjd2.sampler import decode, resolve
from sjd2.sampler.drafts import Slots
from sjd2.sampler.method import verify
from sjd2.sampler.state import DecodingState
from tests.table_model import TableModel, excess_of_pictures, make_request

ROOT = Path(__file__).resolve().parents[2]
PROMPT = (2, 3, 1)
NOISES: list[dict[str, Any]] = [
    {"front": 2, "staggered": False},
    {"level": 0.5},
    {"level": 0.5, "content": "last"},
    {"level": 0.5, "content": "above"},
    {"level": 0.5, "content": "token above"},
    {"confident": 1.0, "staggered": False},
    {"patience": 1, "staggered": False},
]


@pytest.fixture
def variants(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    return importlib.import_module("denoising_variants")


class Louder:
    """An adapter for models without layers: its time embeddings alone."""

    def __init__(self, dimensions: int) -> None:
        self.direction = torch.randn(dimensions, generator=torch.Generator().manual_seed(2))

    def time_embedding(self, timestep: Tensor) -> Tensor:
        return timestep[..., None] * self.direction

    @contextmanager
    def attached(self, backbone: nn.Module) -> Iterator[Gate]:
        yield Gate()


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_a_variant_is_exact_and_commits_behind_clean_slots_alone(
    variants: Any, noise: dict[str, Any]
) -> None:
    """Kills: a draft without steps to go that is not fed as its token, noise in the front that is
    kept clean, and a variant that has no noise at all.
    """
    rows, model, noisy = 20_000, TableModel(length=6), 0
    table = model.embedding_table()

    def watched(logits: Tensor, state: DecodingState, slots: Slots) -> Verdict:
        nonlocal noisy
        verdict = verify(logits, state, slots)
        if slots.noisy is not None and state.iteration > 1:
            clean = ~slots.noisy
            fed = slots.embeddings[: len(clean)]
            assert fed[clean].equal(table[state.window.slots[:, : clean.shape[1]]][clean])
            assert not slots.noisy[:, 1 : noise.get("front", 0) + 1].any()
            before = clean.long().cumprod(dim=1).sum(dim=1)
            assert (verdict.accept_length <= before).all()
            noisy += int(slots.noisy.sum())
        return verdict

    config = DecodingConfig(method="sjd2", window=4, denoising_steps=2)
    adapter = Louder(model.symbols)
    drafts = partial(
        variants.varied_drafts, adapter=adapter, config=config, way=variants.Way(**noise)
    )
    method = replace(resolve(config, Companions(adapter=adapter)), drafts=drafts, rule=watched)
    request = make_request(model, [PROMPT] * rows, Sampling(True))
    tokens, _ = decode(model, request, method, range(rows))
    target = model.picture_probabilities(PROMPT, Sampling(True))
    # A bias of 14 % of a probability in the mean.
    assert excess_of_pictures(tokens, target, 3, sees=0.14) < 1
    assert noisy > 0


def test_the_ratio_is_of_pairs(variants: Any) -> None:
    """Kills: intervals of unpaired pictures, and a ratio upside down."""
    assert variants.ratio([10, 20, 300], [5, 10, 150]) == "2.00 (2.00 to 2.00)"
