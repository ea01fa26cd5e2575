"""Every Triton kernel against its eager twin: tokens and lengths equal, never close.

Without a GPU the kernels run interpreted (see tests/conftest.py); with one, `make gpu` runs the
same tests on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sjd2.kernels import Noise, Rules, Verdict, Window, eager

pytest.importorskip("triton")
from triton import knobs

from sjd2.kernels import triton


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "cpu" and not knobs.runtime.interpret:
        pytest.skip("Triton is not interpreted here")
    # Fills torch.empty with NaN, so that reading memory that was never written shows.
    torch.use_deterministic_algorithms(True)
    yield request.param
    torch.use_deterministic_algorithms(False)


def random_logits(rows: int, width: int, vocab: int, seed: int, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, vocab, generator=generator) * scale


def both(
    logits: Tensor, windows: tuple[Window, Window], rules: Rules, device: str, **at: Any
) -> tuple[Verdict, Verdict]:
    """The verdicts of twin and kernel; everything that decides about tokens must be equal."""
    at = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in at.items()}
    expected = eager.verify_window(logits.to(device), windows[0], rules, **at)
    found = triton.verify_window(logits.to(device), windows[1], rules, **at)
    for name in ("accept_length", "accepted", "tokens"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    for name in ("slots", "kinds", "offset"):
        assert torch.equal(getattr(found.window, name), getattr(expected.window, name)), name
    return expected, found


def decide(
    vocab: int,
    width: int,
    images: int,
    device: str,
    rules: Rules,
    grammar: dict[int, int] | None = None,
    iterations: int = 3,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Some iterations in a row, so that kernels read the distributions that kernels left behind."""
    length = 2 * width + 1
    forced = None
    if grammar:
        forced = torch.full((length,), -1)
        forced[list(grammar)] = torch.tensor(list(grammar.values()))
        forced = forced.to(device)
    seed = torch.arange(images, device=device) * (2**61 // 3) + 5
    position = torch.zeros_like(seed)
    first_width = 1 if rules.start == "neighbour" else width
    first = eager.first_window(seed, first_width, vocab, grammar=forced)
    windows = first, first
    copies = 2 if rules.guidance_scale != 1 else 1
    for iteration in range(1, iterations + 1):
        slots = windows[0].kinds.shape[1]
        logits = random_logits(copies * images, slots, vocab, iteration).to(dtype)
        at = {"seed": seed, "position": position, "iteration": iteration, "length": length}
        expected, found = both(
            logits, windows, rules, device, grammar=forced, next_width=width, **at
        )
        windows = expected.window, found.window
        position = position + expected.accept_length


RULES = {
    "maximal": Rules(),
    "independent": Rules(coupling="independent"),
    "gumbel": Rules(verify="gumbel"),
    "greedy": Rules(verify="greedy"),
    "repeat": Rules(start="repeat"),
    "uniform": Rules(start="uniform"),
    "uniform gumbel": Rules(start="uniform", verify="gumbel"),
}
SHAPES = [(17, 4, 2), (2, 3, 1), (257, 2, 2), (1000, 1, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", RULES)
def test_verify_window_decides_as_its_twin(
    name: str, shape: tuple[int, int, int], device: str
) -> None:
    """Kills: a stream, a counter or a column that differs; `q` read at the wrong offset."""
    decide(*shape, device, RULES[name])


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance_scale": 2.5},
        {"temperature": 0.7},
        {"top_k": 20},
        {"top_p": 0.8},
        {"guidance_scale": 3.0, "temperature": 1.3, "top_k": 50, "top_p": 0.9},
        {"top_k": 1},
        {"top_k": 1000},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["maximal", "independent"])
def test_guidance_and_filters_are_those_of_the_twin(
    name: str, changes: dict[str, Any], device: str
) -> None:
    """Kills: a cut one token off, guidance rows exchanged, top-p of the unfiltered mass."""
    decide(257, 2, 2, device, replace(RULES[name], **changes))


@pytest.mark.parametrize("vocab", [8193, 40_000])
def test_a_large_vocabulary_is_swept_in_chunks(vocab: int, device: str) -> None:
    """Kills: a chunk forgotten, a token number without the start of its chunk."""
    decide(vocab, 1, 1, device, Rules(top_k=50), iterations=2)
    decide(vocab, 1, 1, device, Rules(guidance_scale=2.0, top_p=0.5), iterations=2)


@pytest.mark.parametrize("name", ["maximal", "independent", "gumbel", "repeat", "uniform"])
def test_forced_columns_are_those_of_the_twin(name: str, device: str) -> None:
    """Kills: a forced token drawn, verified with chance, or entered as a free one."""
    decide(17, 4, 3, device, RULES[name], grammar={0: 3, 2: 5, 5: 1, 8: 16})


def test_half_precision_logits_are_read_as_they_are(device: str) -> None:
    """Kills: arithmetic in the dtype of the logits."""
    decide(257, 3, 2, device, Rules(guidance_scale=2.0, top_k=30), dtype=torch.bfloat16)


def uniform_start(images: int, width: int, vocab: int, device: str) -> dict[str, Any]:
    seed = torch.arange(images, device=device) + 3
    window = eager.first_window(seed, width, vocab)
    at = {"seed": seed, "position": torch.zeros_like(seed), "iteration": 1, "length": 50}
    return {"windows": (window, window), "rules": Rules(), "device": device, **at}


def test_equal_distributions_accept_everything(device: str) -> None:
    """Kills: a ratio with a distribution of another column; rounding that rejects p == q."""
    start = uniform_start(2, 4, 16, device)
    expected, _ = both(torch.zeros(2, 4, 16), **start)
    assert expected.accept_length.tolist() == expected.accepted.tolist() == [4, 4]


def test_impossible_drafts_are_all_rejected(device: str) -> None:
    """Kills: `<=` where a probability of zero must not pass."""
    start = uniform_start(2, 4, 17, device)
    logits = random_logits(2, 4, 17, 0)
    logits.scatter_(2, start["windows"][0].tokens.cpu()[..., None], -torch.inf)
    expected, _ = both(logits, **start)
    assert expected.accept_length.tolist() == [1, 1]


def test_where_nothing_is_left_of_a_residual_the_kernel_draws_as_its_twin(device: str) -> None:
    """A q that is e times p everywhere: two drafts in three are rejected, and nothing is left.

    Kills: token zero, or the first group, where p is nowhere above q.
    """
    start = uniform_start(4, 4, 70, device)
    alike = random_logits(1, 1, 70, 0).expand(4, 4, 70).contiguous()
    expected, found = both(alike, **start)
    lifted = torch.tensor([0.0, 1.0, 0.0], device=device)
    windows = (
        expected.window._replace(draft_logits=expected.window.draft_logits + 1),
        found.window._replace(draft_stats=found.window.draft_stats - lifted),
    )
    again, _ = both(alike, **(start | {"windows": windows, "iteration": 2}))
    assert (again.accepted < 4).all()
    assert (again.tokens > 0).any()


def test_ties_go_to_the_first_token_of_the_first_tile(device: str) -> None:
    """Kills: the last of equals, or the first of the last tile."""
    start = uniform_start(1, 2, 2500, device) | {"rules": Rules(verify="greedy")}
    logits = torch.zeros(1, 2, 2500)
    logits[..., [1500, 1600, 2400]] = 3.0
    expected, _ = both(logits, **start)
    assert expected.tokens.tolist() == [[1500, 1500]]


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("whole_row", [False, True])
@pytest.mark.parametrize("filters", [{}, {"top_k": 4}, {"top_p": 0.7}], ids=str)
def test_broken_logits_break_their_own_row_only(
    poison: float, whole_row: bool, filters: dict[str, Any], device: str
) -> None:
    """Kills: an index out of range where no number is the largest; NaN that spreads."""
    start = uniform_start(3, 3, 17, device) | {"rules": Rules(**filters)}
    clean = random_logits(3, 3, 17, 0)
    broken = clean.clone()
    broken[1, :, slice(None) if whole_row else 7] = poison
    _, found = both(broken, **start)
    _, healthy = both(clean, **start)
    assert torch.equal(found.tokens[[0, 2]], healthy.tokens[[0, 2]])
    assert ((found.tokens >= 0) & (found.tokens < 17)).all()


def test_drafts_of_broken_logits_are_decided_as_by_the_twin(device: str) -> None:
    """Kills: a NaN that loses every race, after which another token is drawn than by argmax."""
    start = uniform_start(3, 3, 17, device)
    broken = random_logits(3, 3, 17, 0)
    broken[1] = torch.nan
    expected, found = both(broken, **start)
    start |= {
        "windows": (expected.window, found.window),
        "position": expected.accept_length,
        "iteration": 2,
    }
    both(random_logits(3, 3, 17, 1), **start)


def test_strided_logits_are_read_in_place(device: str) -> None:
    """Kills: pointers computed as if every tensor were contiguous."""
    start = uniform_start(2, 3, 17, device)
    wide = random_logits(4, 17, 6, 0)
    both(wide[::2].transpose(1, 2)[:, ::2], **start)
    narrow = tuple(window.narrow(2) for window in start["windows"])
    both(random_logits(2, 2, 17, 1), **(start | {"windows": narrow}))


def test_noise_ends_the_chain(device: str) -> None:
    """Kills: a column committed behind a slot that was fed noise."""
    start = uniform_start(2, 4, 3, device)
    noisy = torch.tensor([[False, False, True, False], [False, True, True, True]])
    flat = torch.zeros(2, 4, 3)
    expected, _ = both(flat, noisy=noisy, **start)
    assert expected.accept_length.tolist() == [2, 1]


def test_finished_rows_commit_nothing(device: str) -> None:
    """Kills: a slot 0 that forgets its token; an accept length below zero."""
    start = uniform_start(2, 4, 5, device)
    start["position"] = torch.tensor([50, 48])
    expected, _ = both(random_logits(2, 4, 5, 0), **start)
    assert expected.accept_length[0] == 0


def test_a_row_alone_is_the_row_in_a_batch(device: str) -> None:
    """Kills: a row number in an address of randomness; a batch stride used for both halves."""
    logits = random_logits(6, 3, 17, 0).to(device)
    rules = Rules(guidance_scale=2.0)
    seed = torch.tensor([5, 6, 7], device=device)
    at = {"position": torch.zeros_like(seed), "iteration": 1, "length": 50}
    window = eager.first_window(seed, 3, 17)
    together = triton.verify_window(logits, window, rules, seed=seed, **at)
    for row in range(3):
        one = torch.tensor([row], device=device)
        at["position"] = torch.zeros_like(one)
        alone = triton.verify_window(
            logits[[row, row + 3]], window.keep_rows(one), rules, seed=seed[one], **at
        )
        assert torch.equal(alone.tokens, together.tokens[one])
        assert torch.equal(alone.window.slots, together.window.slots[one])


def test_rows_that_stay_keep_their_distribution(device: str) -> None:
    """Kills: guidance rows separated from their images when others leave the batch."""
    rules = Rules(guidance_scale=2.0)
    seed = torch.arange(4, device=device)
    at: dict[str, Any] = {"iteration": 1, "length": 50}
    window = eager.first_window(seed, 3, 17)
    position = torch.zeros_like(seed)
    first = random_logits(8, 3, 17, 0)
    expected, found = both(
        first, (window, window), rules, device, seed=seed, position=position, **at
    )
    kept = torch.tensor([1, 3], device=device)
    windows = expected.window.keep_rows(kept), found.window.keep_rows(kept)
    at |= {"iteration": 2, "seed": seed[kept], "position": expected.accept_length[kept]}
    both(random_logits(4, 3, 17, 1), windows, rules, device, **at)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 7, 1500])
def test_noisy_embed_is_its_twin(size: int, dtype: torch.dtype, device: str) -> None:
    """Kills: noise of another slot, clean rows that went through arithmetic, a copy left out."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(20, size, generator=generator).to(dtype).to(device)
    tokens = torch.randint(20, (3, 5), generator=generator).to(device)
    level = torch.rand(3, 5, generator=generator).to(device)
    level[0, :3], level[2] = 0, 1
    given = {
        "timestep": level,
        "mean": torch.randn(size, generator=generator).to(device),
        "std": torch.rand(size, generator=generator).to(device) + 0.5,
        "time_embedding": torch.randn(3, 5, size, generator=generator).to(dtype).to(device),
        "seed": torch.tensor([1, 2**40, 3], device=device),
        "position": torch.tensor([0, 7, 100], device=device),
    }
    expected = eager.noisy_embed(tokens, table, copies=2, **given)
    found = triton.noisy_embed(tokens, table, copies=2, **given)
    assert torch.equal(found[0, :3], table[tokens[0, :3]])
    assert torch.equal(
        triton.noisy_embed(tokens[:, 1:], table), eager.noisy_embed(tokens[:, 1:], table)
    )
    # 16 bits: one unit in the last place. The interpreter cuts off what hardware rounds.
    tolerance = 2e-6 if dtype == torch.float32 else 2.0**-7
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_noisy_embed_has_the_gradient_of_its_twin(device: str) -> None:
    """Kills: the share of noise in a slot ignored; a token that occurs twice counted once."""
    tokens = torch.tensor([[1, 2, 1], [0, 2, 2]], device=device)
    level = torch.tensor([[0.0, 0.3, 1.0], [0.7, 0.0, 0.2]], device=device)
    gradients = []
    for op in (eager.noisy_embed, triton.noisy_embed):
        table = random_logits(1, 4, 6, 0)[0].to(device).requires_grad_()
        time = random_logits(2, 3, 6, 1).to(device).requires_grad_()
        out = op(
            tokens,
            table,
            timestep=level,
            mean=torch.full((6,), 0.5, device=device),
            std=torch.full((6,), 2.0, device=device),
            time_embedding=time,
            seed=torch.tensor([1, 2], device=device),
            position=torch.tensor([0, 9], device=device),
            copies=2,
        )
        (out * random_logits(4, 3, 6, 2).to(device)).sum().backward()
        gradients.append((table.grad, time.grad))
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_denoise_step_is_its_twin(dtype: torch.dtype, device: str) -> None:
    """Kills: a slot at level 0 divided by its level; the shares of old and new exchanged."""
    old, clean = (random_logits(2, 3, 9, seed).to(dtype).to(device) for seed in (0, 1))
    level = torch.tensor([[1.0, 0.5, 0.0], [0.8, 0.8, 0.1]], device=device)
    following = torch.tensor([[0.5, 0.0, 0.0], [0.8, 0.4, 0.05]], device=device)
    expected = eager.denoise_step(old, clean, level, following)
    found = triton.denoise_step(old, clean, level, following)
    tolerance = 2e-6 if dtype == torch.float32 else 2.0**-7
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert torch.equal(found[0, 1:], clean[0, 1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 7, 1500])
@pytest.mark.parametrize("forced", [False, True])
def test_a_denoised_window_is_its_twin(
    size: int, dtype: torch.dtype, forced: bool, device: str
) -> None:
    """Two slides of windows of five drafts, and of four in the end; what they are fed as.

    Kills: the draft of another column, a step of another level, noise of another position.
    """
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(20, size, generator=generator).to(dtype).to(device)
    noise = Noise(
        levels=torch.tensor([0.0, 0.2, 0.7, 1.0], device=device),
        most=torch.tensor([0, 1, 3, 2, 3], device=device),
        mean=torch.randn(size, generator=generator).to(device),
        std=torch.rand(size, generator=generator).to(device) + 0.5,
        times=torch.randn(4, size, generator=generator).to(device),
    )
    at = {"seed": torch.tensor([1, 2**40, 3], device=device)}
    if forced:
        at["grammar"] = torch.full((9,), -1, device=device).index_fill(
            0, torch.tensor([4, 8], device=device), 3
        )
    position = torch.tensor([0, 2, 100], device=device)
    tolerance = 2e-6 if dtype == torch.float32 else 2.0**-7
    steps = torch.zeros(3, 5, dtype=torch.int64, device=device)
    embeddings = table[steps]
    for length, width in (([5, 5, 5], 5), ([1, 3, 5], 5), ([2, 1, 1], 4)):
        slots = torch.randint(20, (3, width + 1), generator=generator).to(device)
        slide = torch.tensor(length, device=device)
        position = position + slide
        given = (embeddings, steps, slots[:, 1:], noise, table)
        at |= {"accept_length": slide, "position": position}
        expected, found = (module.denoise_window(*given, **at) for module in (eager, triton))
        assert torch.equal(found[1], expected[1])
        torch.testing.assert_close(found[0], expected[0], rtol=tolerance, atol=tolerance)
        clean = expected[1] == 0
        assert torch.equal(found[0][clean], table[slots[:, 1:]][clean])
        embeddings, steps = expected
        given = (slots[:, :-1], embeddings, steps, noise, table)
        inputs, heard = (module.embed_window(*given, copies=2) for module in (eager, triton))
        assert torch.equal(heard[1], inputs[1])
        torch.testing.assert_close(heard[0], inputs[0], rtol=tolerance, atol=tolerance)
        assert torch.equal(heard[1][:3, 1:], steps[:, :-1] > 0)
        assert torch.equal(heard[0][~heard[1]], table[slots[:, :-1]].repeat(2, 1, 1)[~heard[1]])
    assert (steps > 0).any()


def cache(device: str, size: int = 4) -> Tensor:
    return random_logits(6, 7, size, 9).view(3, 2, 7, size).to(device)


def test_kv_append_is_its_twin(device: str) -> None:
    """Kills: heads and slots exchanged in strides; values written with the size of keys."""
    lengths = torch.tensor([0, 4, 2], device=device)
    new_keys = random_logits(3, 3, 8, 1).view(3, 3, 2, 4).transpose(1, 2).to(device)
    new_values = random_logits(3, 3, 10, 2).view(3, 3, 2, 5).transpose(1, 2).to(device)
    pairs = []
    for module in (eager, triton):
        keys, values = cache(device), cache(device, 5)
        module.kv_append(keys, values, new_keys, new_values, lengths)
        pairs.append((keys, values))
    for expected, found in zip(*pairs, strict=True):
        assert torch.equal(found, expected)


def test_kv_append_copies_windows_of_several_blocks(device: str) -> None:
    """Kills: a last block, or one in the middle, that stays behind."""
    lengths = torch.tensor([1, 3], device=device)
    new_keys = random_logits(2, 40, 60, 1)[:, None].to(device)
    new_values = random_logits(2, 40, 61, 2)[:, None].to(device)
    pairs = []
    for module in (eager, triton):
        keys, values = (torch.zeros(2, 1, 50, size, device=device) for size in (60, 61))
        module.kv_append(keys, values, new_keys, new_values, lengths)
        pairs.append((keys, values))
    for expected, found in zip(*pairs, strict=True):
        assert torch.equal(found, expected)


def test_kv_truncate_is_its_twin(device: str) -> None:
    """Kills: a last block that is read or written beyond; the accept length of another picture."""
    accepted = torch.arange(75, device=device) % 7
    results = []
    for module in (eager, triton):
        room = torch.arange(160, device=device)
        module.kv_truncate(room[:150], accepted)
        results.append(room)
    assert torch.equal(*results)


def test_kv_compact_is_its_twin(device: str) -> None:
    """Kills: a row overwritten before it has moved; entries of the wrong row's length."""
    kept = torch.tensor([1, 2], device=device)
    lengths = torch.tensor([2, 5, 7], device=device)
    expected, found = cache(device), cache(device)
    eager.kv_compact(expected, kept, lengths)
    triton.kv_compact(found, kept, lengths)
    for row, length in enumerate(lengths[kept].tolist()):
        assert torch.equal(found[row, :, :length], expected[row, :, :length])


def test_commit_window_is_its_twin(device: str) -> None:
    """Kills: a picture addressed by its row in the batch; a row that commits nothing moved on."""
    tokens = torch.arange(6, device=device).view(2, 3)
    accept_length = torch.tensor([2, 0], device=device)
    window = Window(tokens, tokens, tokens, accept_length)
    verdict = Verdict(accept_length, accept_length, tokens, window)
    results = []
    for module in (eager, triton):
        pictures = torch.full((4, 9), -1, device=device)
        position = torch.tensor([1, 6], device=device)
        rows = torch.tensor([3, 1], device=device)
        module.commit_window(verdict, rows, pictures, position)
        results.append((pictures, position))
    for expected, found in zip(*results, strict=True):
        assert torch.equal(found, expected)
