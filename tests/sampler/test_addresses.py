"""Random numbers are used once: what is drawn, and in which iteration and pass, is in its address.

An enumeration over independent draws cannot see two draws that share their numbers, so the
addresses themselves are written down.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sjd2.companions import Companions
from sjd2.config import DecodingConfig
from sjd2.kernels import Rules, eager, philox
from sjd2.kernels.philox import GROUPS_FROM, Stream
from sjd2.kernels.verify_window.draws import PhiloxDraws
from sjd2.protocol import Sampling
from sjd2.sampler import decode, resolve
from tests.sampler.test_correction import Wild
from tests.table_model import TableModel, make_request


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Every block of Philox that is computed: (seed, position, iteration, stream, block)."""
    found: list[Tensor] = []
    blocks = philox._blocks

    def recorded(
        seed: Tensor, position: Tensor, iteration: int | Tensor, stream: int, block: Tensor
    ) -> Any:
        when = torch.as_tensor(iteration)
        parts = [part.unsqueeze(-1) for part in (seed, position, when.expand(seed.shape))]
        each = torch.broadcast_tensors(*parts, torch.tensor(int(stream)), block)
        found.append(torch.stack(each, dim=-1).reshape(-1, 5))
        return blocks(seed, position, iteration, stream, block)

    monkeypatch.setattr(philox, "_blocks", recorded)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"corrector_passes": 1},
        {"corrector_passes": 3},
        {"corrector_passes": "sweep"},
        {"coupling": "independent"},
        {"start": "uniform"},
        {"start": "repeat"},
    ],
    ids=str,
)
def test_no_address_is_used_twice(addresses: list[Tensor], options: dict[str, Any]) -> None:
    """Kills: every correction pass, or every forward, with the same random numbers; corrections
    that share those of a forward; columns, groups or rows that share theirs.
    """
    model = TableModel(length=9)
    method = resolve(DecodingConfig(window=4, **options), Companions(corrector=Wild(model)))
    addresses.clear()  # the model's own distributions are made of Philox, too
    model.next_logits = _fixed(model)  # type: ignore[method-assign]
    decode(model, make_request(model, [(2, 3, 1), (1,)], Sampling(True)), method, [5, 2**40])
    used = torch.cat(addresses)
    assert {Stream.ACCEPT, Stream.RESIDUAL} < set(used[:, 3].tolist())
    assert len(used.unique(dim=0)) == len(used)


def _fixed(model: TableModel) -> Any:
    """Logits of a prefix code, by arithmetic."""
    token = torch.arange(model.vocab_size)
    return lambda code: ((code.unsqueeze(-1) % 1009) * (token + 1) % 7).float() / 3


def test_every_draw_is_from_its_own_stream_and_position(addresses: list[Tensor]) -> None:
    """Kills: a residual, an acceptance or a newcomer drawn with the numbers of another, and a
    newcomer drawn where it goes to instead of where it stands.
    """
    width, vocab = 3, 5
    window = eager.first_window(torch.tensor([7]), width, vocab)
    logits = torch.zeros(1, width, vocab).scatter_(2, window.tokens[..., None], -torch.inf)
    at: dict[str, Any] = {"seed": torch.tensor([7]), "position": torch.tensor([0])}
    addresses.clear()
    eager.verify_window(logits, window, Rules(), **at, iteration=4, length=20, next_width=6)
    used = torch.cat(addresses)
    assert used[:, 2].unique().tolist() == [4]
    places = {
        stream: used[used[:, 3] == stream, 1].unique().tolist()
        for stream in (Stream.ACCEPT, Stream.RESIDUAL, Stream.DRAFT)
    }
    # All are rejected, so one is committed, and four enter behind the three.
    assert places == {
        Stream.ACCEPT: [0, 1, 2],
        Stream.RESIDUAL: [0, 1, 2],
        Stream.DRAFT: [3, 4, 5, 6],
    }


def test_tokens_of_different_groups_have_different_noise(addresses: list[Tensor]) -> None:
    """Kills: the noise of the first group for all; blocks that two groups share."""
    one = torch.zeros(1, dtype=torch.int64)
    for token in (3, 40, 95):
        weights = torch.zeros(1, 96)
        weights[0, token] = 1
        addresses.clear()
        PhiloxDraws(one, one, 1).choose(weights, one, one, Stream.DRAFT)
        block = torch.cat(addresses)[:, 4]
        first = token // 32 * 16
        assert block[block < GROUPS_FROM // 2].tolist() == list(range(first, first + 16))
