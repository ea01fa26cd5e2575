"""Kernels at the edges of their tensors: last tiles, strides, masks, addresses of 64 bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sjd2.kernels import Rules, Shifts, Verdict, Window, eager
from tests.kernels.test_triton_parity import random_logits

pytest.importorskip("triton")
from triton import knobs

from sjd2.kernels import triton
from tests.kernels.memory import Guard, spaced

pytestmark = pytest.mark.skipif(
    not knobs.runtime.interpret, reason="the guard is one of the interpreter"
)
LENGTH = 9


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def grammar_of(**forced: int) -> Tensor:
    grammar = torch.full((LENGTH,), -1)
    for place, token in forced.items():
        grammar[int(place[1:])] = token
    return grammar


def verified(module: Any = triton, rules: Rules | None = None, **changes: Any) -> Verdict:
    """A verdict near the end of pictures, of windows that overrun it."""
    seed = torch.tensor([5, 2**40])
    grammar = grammar_of(p4=3, p7=1)
    window = eager.first_window(seed, 3, 17, grammar=None)
    copies = 2 if rules and rules.guidance_scale != 1 else 1
    given: dict[str, Any] = {
        "seed": seed,
        "position": torch.tensor([LENGTH - 2, 3]),
        "iteration": 1,
        "length": LENGTH,
        "grammar": grammar,
        "noisy": torch.tensor([[False, False, True], [False, False, False]]),
        "next_width": 5,
    }
    logits = random_logits(2 * copies, 3, 17, 1)
    return module.verify_window(logits, window, rules or Rules(), **(given | changes))


def verified_twice() -> None:
    """Windows whose distributions were kept of fewer columns than they have now."""
    seed, rules = torch.tensor([5, 2**40]), Rules(guidance_scale=2.0, top_k=5, top_p=0.9)
    window, position = eager.first_window(seed, 1, 17), torch.tensor([0, 0])
    for iteration, width in ((1, 1), (2, 4), (3, 4)):
        at: dict[str, Any] = {"seed": seed, "iteration": iteration, "length": LENGTH}
        logits = random_logits(4, width, 17, iteration)
        verdict = triton.verify_window(logits, window, rules, position=position, next_width=4, **at)
        window, position = verdict.window, position + verdict.accept_length


def corrected(rank: int = 5, module: Any = triton) -> Window:
    """A correction at the beginning of pictures, where neighbours are missing."""
    verdict = verified(module, position=torch.tensor([0, 1]), noisy=None)
    offsets = torch.tensor([1, 2, 5])
    shifts = Shifts(random(3 * 18, rank), offsets, random(17, rank))
    tokens = torch.arange(2 * (LENGTH + 6)).view(2, -1) % 17
    state, grammar = random(2, 3, rank), grammar_of(p4=3, p7=1)
    position = torch.tensor([0, 1])
    seen = module.activate_window(state, tokens, shifts, position=position, grammar=grammar)
    corrected: Window = module.correct_window(
        verdict.window,
        verdict.window,
        state,
        seen,
        tokens,
        shifts,
        Rules(),
        seed=torch.tensor([5, 2**40]),
        position=position + verdict.accept_length,
        iteration=1,
        correction=1,
        grammar=grammar,
    )
    return corrected


def embedded() -> Tensor:
    given = {
        "timestep": torch.tensor([[0.0, 0.5, 1.0], [0.3, 0.0, 0.2]]),
        "mean": random(7),
        "std": random(7).abs() + 1,
        "time_embedding": random(2, 3, 7),
        "seed": torch.tensor([5, 2**40]),
        "position": torch.tensor([0, 7]),
    }
    tokens = torch.tensor([[0, 10, 3], [4, 4, 10]])
    found: Tensor = triton.noisy_embed(tokens, random(11, 7), copies=2, **given)
    return found


def denoised() -> None:
    old, clean = random(2, 3, 7), random(2, 3, 7)
    triton.denoise_step(old, clean, torch.rand(2, 3), torch.rand(2, 3))


def appended() -> None:
    keys, values = random(2, 3, 8, 5), random(2, 3, 8, 7)
    new_keys = random(2, 2, 3, 5).transpose(1, 2)
    new_values = random(2, 2, 3, 7).transpose(1, 2)
    triton.kv_append(keys, values, new_keys, new_values, torch.tensor([0, 6]))


def truncated() -> None:
    triton.kv_truncate(torch.arange(150), torch.arange(75) % 7)


def compacted() -> None:
    cache, lengths = random(3, 2, 7, 5), torch.tensor([2, 5, 7])
    triton.kv_compact(cache, torch.tensor([1, 2]), lengths)


def committed() -> None:
    tokens, length = torch.arange(6).view(2, 3), torch.tensor([2, 3])
    verdict = Verdict(length, length, tokens, Window(tokens, tokens, tokens, length))
    position = torch.tensor([1, 6])
    triton.commit_window(verdict, torch.tensor([0, 1]), torch.zeros(2, 9).long(), position)


RULES = {
    "maximal": Rules(),
    "independent": Rules(coupling="independent"),
    "gumbel": Rules(verify="gumbel"),
    "uniform": Rules(start="uniform"),
    "repeat": Rules(start="repeat"),
    "filtered": Rules(guidance_scale=2.0, top_k=5, top_p=0.9),
}
CALLS: dict[str, Callable[[], object]] = {
    **{
        f"verify {name}": lambda rules=rules: verified(rules=rules) for name, rules in RULES.items()
    },
    "verify twice": verified_twice,
    "correct": corrected,
    "embed": embedded,
    "denoise": denoised,
    "append": appended,
    "truncate": truncated,
    "compact": compacted,
    "commit": committed,
}


@pytest.mark.parametrize("name", CALLS)
def test_kernels_read_and_write_inside_their_tensors(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: a missing mask, a last tile that is taken for whole, a grammar read beyond its end."""
    guard = Guard(monkeypatch)
    CALLS[name]()
    assert guard.accesses > 10


def test_the_guard_sees_an_access_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known-bad: a cache with room for one window less than is written.

    Kills: a guard that guards nothing.
    """
    Guard(monkeypatch)
    keys, values, new = random(1, 2, 4, 5), random(1, 2, 4, 5), random(1, 2, 3, 5)
    with pytest.raises(Exception, match="left the tensors"):
        triton.kv_append(keys, values, new, new, torch.tensor([2]))


# Calls and the axis of the grid that counts images or rows; so far out, the products of rows,
# columns and sizes are beyond 2^31 and the rows themselves are not.
FAR = {
    "verify maximal": (1, 50_000_000),
    "verify filtered": (1, 40_000_000),
    "correct": (2, 40_000_000),
    "embed": (1, 110_000_000),
    "append": (1, 100_000_000),
}


@pytest.mark.parametrize("name", FAR)
def test_addresses_are_of_64_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills: a row times its size in 32 bits, which lies 2^31 entries before where it should."""
    axis, number = FAR[name]
    if name == "correct":
        # The second launch counts images along another axis, and is that of verify_window.
        from sjd2.kernels.correct_window import triton as kernels

        class Idle:
            def __getitem__(self, grid: Any) -> Any:
                return lambda **given: None

        verdict = verified(position=torch.tensor([0, 1]), noisy=None)
        monkeypatch.setattr(kernels, "columns_kernel", Idle())
        monkeypatch.setattr("tests.kernels.test_bounds.verified", lambda *a, **k: verdict)
    guard = Guard(monkeypatch, {axis: number})
    CALLS[name]()
    assert guard.furthest > 2**33


def test_windows_are_read_by_their_strides() -> None:
    """Kills: kinds, slots or noise of a narrowed window read as if it were contiguous."""
    for rules in (Rules(start="uniform"), Rules(coupling="independent", start="repeat")):
        seed, position = torch.tensor([5, 6, 2**40]), torch.zeros(3, dtype=torch.int64)
        first = eager.first_window(seed, 3, 17)
        at: dict[str, Any] = {"seed": seed, "length": 30, "iteration": 2}
        logits = random_logits(3, 3, 17, 4)
        before = verified_first(rules, seed, first)
        kinds = torch.tensor([[0, 1, 2], [1, 0, 0], [2, 1, 1]], dtype=torch.uint8)
        window = before._replace(kinds=kinds)
        noisy = torch.tensor([[False, True, True], [False, False, True], [False, False, False]])
        given: dict[str, Any] = {"position": position, **at}
        expected = triton.verify_window(logits, window, rules, noisy=noisy, **given)
        strided = window._replace(slots=spaced(window.slots, 9), kinds=spaced(kinds, 1))
        found = triton.verify_window(logits, strided, rules, noisy=spaced(noisy, True), **given)
        for ours, theirs in zip(found[:3], expected[:3], strict=True):
            assert torch.equal(ours, theirs)
        for name in ("slots", "kinds"):
            assert torch.equal(getattr(found.window, name), getattr(expected.window, name))


def verified_first(rules: Rules, seed: Tensor, window: Window) -> Window:
    """A window whose distributions a kernel has left behind."""
    at: dict[str, Any] = {"position": torch.zeros_like(seed), "iteration": 1, "length": 30}
    return triton.verify_window(random_logits(3, 3, 17, 3), window, rules, seed=seed, **at).window


def test_a_table_is_read_by_its_stride() -> None:
    """Kills: a row of the table found as if the rows lay side by side."""
    tokens = torch.tensor([[0, 10, 3], [4, 4, 10]])
    table = spaced(random(11, 7), torch.nan)
    assert torch.equal(triton.noisy_embed(tokens, table), table[tokens])


@pytest.mark.parametrize("vocab", [1100, 16_400])
def test_a_token_of_the_last_tile_is_drawn(vocab: int) -> None:
    """Kills: a last tile of tokens that no race, draw or sum gets to."""
    last = vocab - 3
    logits = torch.zeros(1, 1, vocab)
    logits[..., last] = 30.0
    one = torch.tensor([0])
    at: dict[str, Any] = {"seed": one, "position": one, "iteration": 1, "length": 9}
    for rules in (Rules(coupling="independent"), Rules(verify="gumbel")):
        window = eager.first_window(one, 1, vocab)
        verdict = triton.verify_window(logits, window, rules, **at, next_width=2)
        assert verdict.tokens.tolist() == [[last]]
        assert verdict.window.tokens.tolist() == [[last, last]]
        stats = verdict.window.draft_stats
        assert stats is not None
        torch.testing.assert_close(stats[..., 0] + stats[..., 1], logits.logsumexp(-1))


def test_a_long_cache_moves_as_a_whole() -> None:
    """Kills: the entries of a last tile left where another row was."""
    cache = random(3, 2, 230, 5)
    expected, lengths = cache[[1, 2]].clone(), torch.tensor([5, 230, 229])
    triton.kv_compact(cache, torch.tensor([1, 2]), lengths)
    for row, length in enumerate((230, 229)):
        assert torch.equal(cache[row, :, :length], expected[row, :, :length])


def test_every_unit_of_a_corrector_counts() -> None:
    """Kills: a last tile of the hidden layer that shifts nothing."""
    ours, theirs = corrected(70), corrected(70, eager)
    assert torch.equal(ours.slots, theirs.slots)
    free = theirs.draft_logits > -torch.inf
    target = ours.draft_logits.log_softmax(-1)
    torch.testing.assert_close(target[free], theirs.draft_logits[free], rtol=1e-4, atol=1e-4)
