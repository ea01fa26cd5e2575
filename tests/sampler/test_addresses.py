"""Every random number of a picture decides one thing: no address is drawn from twice.

Exactness needs the decisions about a column to be independent of each other: the criterion of a
forward, its residual, every correction pass and the forward after it. They are, where no two of
them read the same number.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sjd2.companions import Companions
from sjd2.config import DecodingConfig
from sjd2.kernels import philox
from sjd2.kernels.philox import Stream
from sjd2.protocol import Request
from sjd2.sampler import correction, decode, resolve
from sjd2.sampler.queue import decode_queue
from tests.sampler.test_correction import FREE, PROMPT, Wild
from tests.table_model import TableModel, make_request

Address = tuple[int, ...]


class Recorder:
    """Philox, and every address that it is asked for: seed, position, iteration, stream, block."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: set[Address] = set()
        self.twice: set[Address] = set()
        self.blocks = philox._blocks
        monkeypatch.setattr(philox, "_blocks", self.recorded)

    def recorded(
        self, seed: Tensor, position: Tensor, iteration: int | Tensor, stream: Stream, block: Tensor
    ) -> tuple[Tensor, ...]:
        if stream != Stream.EMBED:  # the table model's logits
            when = torch.as_tensor(iteration).expand_as(seed)
            shape = (*seed.shape, block.shape[-1])
            parts = [one.unsqueeze(-1).expand(shape) for one in (seed, position, when)]
            parts += [torch.full(shape, int(stream)), block.expand(shape)]
            for address in torch.stack(parts, dim=-1).flatten(0, -2).tolist():
                found = tuple(address)
                (self.twice if found in self.seen else self.seen).add(found)
        return self.blocks(seed, position, iteration, stream, block)

    def streams(self) -> set[int]:
        return {address[3] for address in self.seen}


CASES = [
    pytest.param({"corrector_passes": 1}, id="one-pass"),
    pytest.param({"corrector_passes": 3}, id="three-passes"),
    pytest.param({"corrector_passes": "sweep"}, id="sweep"),
    pytest.param({"corrector_passes": 2, "coupling": "independent"}, id="independent"),
    pytest.param({"corrector_passes": 2, "start": "uniform"}, id="uniform"),
    pytest.param({"corrector_passes": 2, "start": "repeat"}, id="one-hot"),
]


def moderate(model: TableModel) -> Companions:
    return Companions(corrector=Wild(model, std=0.7))


@pytest.mark.parametrize("options", CASES)
def test_no_random_number_is_used_twice(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: passes that share their numbers with each other, with their forward or with the next;
    a stream for two decisions; columns of a sweep that draw for one position.
    """
    model = TableModel(length=7)
    method = resolve(DecodingConfig(window=4, **options), moderate(model))
    recorder = Recorder(monkeypatch)
    seeds = [0, 1, 2**40, 7, 8, 9]
    decode(model, make_request(model, [PROMPT] * len(seeds), FREE), method, seeds)
    assert {Stream.ACCEPT, Stream.RESIDUAL} <= recorder.streams()
    assert not recorder.twice


def test_no_random_number_is_used_twice_in_a_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills: a newcomer that counts its iterations so that two of them are the same."""
    model = TableModel(length=7)
    method = resolve(DecodingConfig(window=4, corrector_passes=2), moderate(model))
    recorder = Recorder(monkeypatch)
    pictures: list[tuple[Request, int]] = [
        (make_request(model, [PROMPT], FREE), seed) for seed in range(7)
    ]
    drawn: list[Any] = []
    decode_queue(model, pictures, method, 3, drawn.append)
    assert len(drawn) == 7
    assert recorder.seen
    assert not recorder.twice


def test_passes_with_the_same_numbers_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The power of the tests above.

    Kills: a recorder that sees only some of the numbers.
    """
    right = correction.correct_window
    monkeypatch.setattr(
        correction,
        "correct_window",
        lambda *given, **named: right(*given, **(named | {"correction": 1})),
    )
    model = TableModel(length=7)
    method = resolve(DecodingConfig(window=4, corrector_passes=2), moderate(model))
    recorder = Recorder(monkeypatch)
    decode(model, make_request(model, [PROMPT] * 2, FREE), method, range(2))
    assert recorder.twice
