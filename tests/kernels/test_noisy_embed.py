"""`noisy_embed` and `denoise_step`: the forward and the backward of the noise."""

from __future__ import annotations

import pytest
import torch

from sjd2.kernels import Noise, denoise_step, embed_window, noisy_embed
from tests.statistics import strays


@pytest.fixture
def table() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(40, 64) * torch.linspace(0.1, 3, 64) + torch.linspace(-2, 2, 64)


def noise_arguments(table: torch.Tensor, rows: int) -> dict[str, torch.Tensor]:
    return {
        "mean": table.mean(0),
        "std": table.std(0),
        "seed": torch.arange(rows),
        "position": torch.zeros(rows, dtype=torch.int64),
    }


def test_clean_slots_are_bitwise_rows_of_the_table(table: torch.Tensor) -> None:
    """Kills: a clean embedding sent through normalise and denormalise."""
    tokens = torch.randint(40, (2, 5))
    t = torch.tensor([[0.0, 0.5, 0.0, 1.0, 0.0]]).expand(2, -1)
    mixed = noisy_embed(tokens, table, timestep=t, copies=2, **noise_arguments(table, 2))
    assert torch.equal(mixed[:2], mixed[2:])
    assert torch.equal(mixed[:2][t == 0], table[tokens][t == 0])
    assert not torch.isclose(mixed[:2][t > 0], table[tokens][t > 0]).all()
    assert torch.equal(noisy_embed(tokens, table), table[tokens])


def moments(table: torch.Tensor, level: float, told: float) -> float:
    """How far noise of the level that was told is from that of another level."""
    rows = 4000
    tokens = torch.full((rows, 1), 7)
    given = noise_arguments(table, rows)
    mixed = noisy_embed(tokens, table, timestep=torch.full((rows, 1), told), **given)
    normal = (mixed.squeeze(1) - given["mean"]) / given["std"]
    clean = (table[7] - given["mean"]) / given["std"]
    error = rows**-0.5
    mean = strays(normal.mean(0), (1 - level) * clean, level * error, sees=0.14 * level)
    deviation = strays(normal.std(0), level, level * error / 2**0.5, sees=0.1 * level)
    off_diagonal = torch.corrcoef(normal.T) - torch.eye(64)
    return max(mean, deviation, strays(off_diagonal, 0.0, error, sees=0.14))


@pytest.mark.parametrize("level", [0.25, 0.7, 1.0])
def test_noise_has_the_moments_of_its_level(table: torch.Tensor, level: float) -> None:
    """Kills: variance for deviation, noise outside the normalised space, one number a slot."""
    assert moments(table, level, told=level) < 1


@pytest.mark.parametrize("level", [0.25, 0.7, 1.0])
def test_noise_of_another_level_is_found_out(table: torch.Tensor, level: float) -> None:
    """The power of the test above: noise too weak by a seventh."""
    assert moments(table, level, told=6 / 7 * level) > 1


def test_noise_belongs_to_the_position_not_to_the_slot(table: torch.Tensor) -> None:
    """Kills: noise by slot number, which would change when the window slides."""
    tokens, t = torch.full((1, 4), 3), torch.ones(1, 4)
    given = noise_arguments(table, 1)
    before = noisy_embed(tokens, table, timestep=t, **given)
    given["position"] = given["position"] + 2
    after = noisy_embed(tokens, table, timestep=t, **given)
    assert torch.equal(before[:, 2:], after[:, :2])


@pytest.mark.parametrize("strength", [0.25, 0.7, 3.0])
def test_the_time_embedding_reaches_noisy_slots_only(table: torch.Tensor, strength: float) -> None:
    """Kills: clean slots that feel the adapter."""
    tokens, t = torch.randint(40, (1, 3)), torch.tensor([[0.0, 0.5, 1.0]])
    given = noise_arguments(table, 1)
    time = torch.full((1, 3, 64), strength)
    plain = noisy_embed(tokens, table, timestep=t, **given)
    timed = noisy_embed(tokens, table, timestep=t, time_embedding=time, **given)
    assert torch.equal(plain[:, 0], timed[:, 0])
    torch.testing.assert_close(timed[:, 1:], plain[:, 1:] + strength)


def test_noise_without_its_arguments_is_refused(table: torch.Tensor) -> None:
    """Kills: a failure deep inside."""
    with pytest.raises(ValueError, match="mean, std, seed and position"):
        noisy_embed(torch.zeros(1, 1, dtype=torch.int64), table, timestep=torch.ones(1, 1))


def test_denoising_ends_at_the_clean_embedding_and_holds_at_pure_noise() -> None:
    """Kills: division by a timestep of zero, a schedule that never arrives."""
    torch.manual_seed(0)
    noise, clean = torch.randn(1, 3, 8), torch.randn(1, 3, 8)
    t = torch.tensor([[1.0, 0.4, 0.0]])
    assert torch.equal(denoise_step(noise, clean, t, torch.zeros_like(t)), clean)
    half = denoise_step(noise, clean, t, t / 2)
    torch.testing.assert_close(half[:, :2], (noise + clean)[:, :2] / 2)


def test_denoising_with_the_truth_stays_on_the_forward_path() -> None:
    """Kills: a step with swapped weights: `(1 - t) e + t eps` must go to `(1 - t') e + t' eps`."""
    torch.manual_seed(0)
    noise, clean = torch.randn(2, 4, 8), torch.randn(2, 4, 8)
    t, s = torch.rand(2, 4) * 0.5 + 0.5, torch.rand(2, 4) * 0.5
    at = lambda level: (1 - level[..., None]) * clean + level[..., None] * noise  # noqa: E731
    torch.testing.assert_close(denoise_step(at(t), clean, t, s), at(s))


def test_a_slot_is_fed_the_draft_of_the_column_before_it(table: torch.Tensor) -> None:
    """Kills: drafts fed a slot early or late; a noisy draft that is not told its level."""
    levels, times = torch.tensor([0.0, 0.4, 1.0]), torch.tensor([0.0, 10.0, 20.0])
    most = torch.full((3,), 2)
    noise = Noise(levels, most, table.mean(0), table.std(0), times[:, None].expand(-1, 64))
    slots, drafts = torch.tensor([[7, 8, 9]]), torch.randn(1, 3, 64)
    fed, noisy = embed_window(slots, drafts, torch.tensor([[2, 0, 1]]), noise, table)
    assert noisy.tolist() == [[False, True, False]]
    assert torch.equal(fed[:, ::2], table[slots[:, ::2]])
    torch.testing.assert_close(fed[:, 1], drafts[:, 0] + 20)
