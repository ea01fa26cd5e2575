"""Every kernel at the edges of its tensors: last tiles, strides, masks, order, 64-bit addresses."""

from __future__ import annotations

import ast
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import sjd2.kernels
from sjd2.kernels import Noise, Rules, Shifts, Verdict, Window, eager
from tests.kernels.test_triton_parity import random_logits

pytest.importorskip("triton")
import triton.language as tl
from triton import jit, knobs
from triton.runtime.interpreter import InterpretedFunction

from sjd2.kernels import triton
from tests.fake_gpu import KERNELS
from tests.kernels.memory import Guard, spaced

pytestmark = pytest.mark.skipif(
    not knobs.runtime.interpret, reason="the guard is one of the interpreter"
)
LENGTH = 9
SEED = torch.tensor([5, 2**40])
Results = dict[str, Tensor]


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def grammar_of(**forced: int) -> Tensor:
    grammar = torch.full((LENGTH,), -1)
    for place, token in forced.items():
        grammar[int(place[1:])] = token
    return grammar


def strided(window: Window) -> Window:
    """The window in rows that lie apart, as one that was narrowed."""
    return window._replace(slots=spaced(window.slots, 9), kinds=spaced(window.kinds, 1))


def decisions(verdict: Verdict) -> Results:
    """What both implementations say in the same words."""
    window = verdict.window
    held = {"slots": window.slots, "kinds": window.kinds, "offset": window.offset}
    return {**held, **dict(zip(Verdict._fields[:3], verdict[:3], strict=True))}


def verified(
    module: Any, rules: Rules | None = None, width: int = 3, vocab: int = 17, **changes: Any
) -> Verdict:
    """A verdict near the end of pictures, of windows that overrun it."""
    noisy = torch.zeros(2, width, dtype=torch.bool)
    noisy[0, 2:] = True
    given: dict[str, Any] = {
        "seed": SEED,
        "position": torch.tensor([LENGTH - 2, 3]),
        "iteration": 1,
        "length": LENGTH,
        "grammar": grammar_of(p4=3, p7=1),
        "noisy": spaced(noisy, True),
        "next_width": width + 2,
    }
    copies = 2 if rules and rules.guidance_scale != 1 else 1
    logits = random_logits(2 * copies, width, vocab, 1)
    window = strided(eager.first_window(SEED, width, vocab))
    verdict: Verdict = module.verify_window(logits, window, rules or Rules(), **(given | changes))
    return verdict


def verified_twice(module: Any, rules: Rules) -> Results:
    """Windows whose distributions were kept of fewer columns than they have now."""
    position, found = torch.tensor([0, 0]), {}
    window = eager.first_window(SEED, 1, 17)
    copies = 2 if rules.guidance_scale != 1 else 1
    for iteration, width in ((1, 1), (2, 4), (3, 4)):
        at: dict[str, Any] = {"seed": SEED, "iteration": iteration, "length": LENGTH}
        at |= {"position": position, "begun": torch.tensor([0, 1]), "next_width": 4}
        logits = random_logits(2 * copies, width, 17, iteration)
        verdict = module.verify_window(logits, strided(window), rules, **at)
        window, position = verdict.window, position + verdict.accept_length
        found |= {f"{name} {iteration}": one for name, one in decisions(verdict).items()}
    return found


def corrected(module: Any, rank: int, width: int = 3, vocab: int = 17) -> Results:
    """A correction at the beginning of pictures, where neighbours are missing."""
    verdict = verified(module, width=width, vocab=vocab, position=torch.tensor([0, 1]), noisy=None)
    window = verdict.window.narrow(width)
    offsets = torch.tensor([1, 2, 5])
    shifts = Shifts(random(3 * (vocab + 1), rank), offsets, random(vocab, rank))
    tokens = spaced(torch.arange(3 * (LENGTH + width + 3)).view(3, -1) % vocab, 10**6)
    rows = torch.tensor([2, 0])
    state, grammar = spaced(random(2, width, rank), torch.nan), grammar_of(p4=3, p7=1)
    position = torch.tensor([0, 1])
    fed = strided(eager.first_window(SEED, width, vocab))
    text = {"rows": rows, "grammar": grammar}
    seen = module.activate_window(state, tokens, shifts, position=position, window=fed, **text)
    bare = module.activate_window(state, tokens[:2], shifts, position=position)
    after: Window = module.correct_window(
        strided(window),
        window,
        state,
        seen,
        tokens,
        shifts,
        Rules(),
        seed=SEED,
        position=position + verdict.accept_length,
        iteration=1,
        correction=1,
        **text,
    )
    log_q = after.draft_logits.log_softmax(-1)
    found = {"slots": after.slots, "kinds": after.kinds, "offset": after.offset}
    return {**found, "seen": seen, "bare": bare, "log q": log_q}


def embedded(module: Any, size: int = 7) -> Results:
    given = {
        "timestep": spaced(torch.tensor([[0.0, 0.5, 1.0], [0.3, 0.0, 0.2]]), torch.nan),
        "mean": random(size),
        "std": random(size).abs() + 1,
        "time_embedding": spaced(random(2, 3, size), torch.nan),
        "seed": SEED,
        "position": torch.tensor([0, 7]),
    }
    tokens = spaced(torch.tensor([[0, 10, 3], [4, 4, 10]]), 10**6)
    table = spaced(random(11, size), torch.nan)
    noisy = module.noisy_embed(tokens, table, copies=2, **given)
    return {"noisy": noisy, "clean": module.noisy_embed(tokens, table)}


def denoised(module: Any, size: int = 7) -> Results:
    old, clean = (spaced(random(2, 3, size) + shift, torch.nan) for shift in (0, 1))
    level = spaced(torch.tensor([[1.0, 0.5, 0.0], [0.8, 0.8, 0.1]]), torch.nan)
    following = spaced(torch.tensor([[0.5, 0.0, 0.0], [0.8, 0.4, 0.05]]), torch.nan)
    return {"step": module.denoise_step(old, clean, level, following)}


def noise_of(size: int) -> Noise:
    levels, most = torch.tensor([0.0, 0.2, 1.0]), torch.tensor([1, 2, 1])
    return Noise(levels, most, random(size), random(size).abs() + 1, random(3, size))


def window_denoised(module: Any, size: int = 7) -> Results:
    """Of the last three columns of a window of two and of one of three."""
    old, table = spaced(random(2, 2, size), torch.nan), spaced(random(11, size), torch.nan)
    embeddings, steps = module.denoise_window(
        old,
        spaced(torch.tensor([[0, 2], [1, 1]]), 10**6),
        spaced(torch.tensor([[0, 10, 3], [4, 4, 10]]), 10**6),
        noise_of(size),
        table,
        accept_length=torch.tensor([1, 2]),
        seed=SEED,
        position=torch.tensor([0, 7]),
        grammar=grammar_of(p4=3, p7=1),
    )
    return {"embeddings": embeddings, "steps": steps}


def window_embedded(module: Any, size: int = 7) -> Results:
    drafts, table = spaced(random(2, 3, size), torch.nan), spaced(random(11, size), torch.nan)
    steps = spaced(torch.tensor([[0, 2, 1], [1, 0, 0]]), 10**6)
    slots = spaced(torch.tensor([[0, 10, 3], [4, 4, 10]]), 10**6)
    fed, noisy = module.embed_window(slots, drafts, steps, noise_of(size), table, copies=2)
    return {"fed": fed, "noisy": noisy}


def appended(module: Any, size: int = 5) -> Results:
    keys, values = random(2, 3, 8, size), random(2, 3, 8, size + 2)
    new_keys = spaced(random(2, 2, 3, size), torch.nan).transpose(1, 2)
    new_values = spaced(random(2, 2, 3, size + 2), torch.nan).transpose(1, 2)
    module.kv_append(keys, values, new_keys, new_values, torch.tensor([0, 6]))
    return {"keys": keys, "values": values}


def truncated(module: Any) -> Results:
    lengths = torch.arange(150)
    module.kv_truncate(lengths, torch.arange(75) % 7)
    return {"lengths": lengths}


def compacted(module: Any, capacity: int = 7) -> Results:
    kept, lengths = torch.tensor([1, 2]), torch.tensor([2, capacity, capacity - 1])
    cached = random(3, 2, capacity, 5)
    module.kv_compact(cached, kept, lengths)
    return {
        f"row {row}": cached[row, :, :length] for row, length in enumerate(lengths[kept].tolist())
    }


def committed(module: Any) -> Results:
    tokens, length = torch.arange(6).view(2, 3), torch.tensor([2, 3])
    verdict = Verdict(length, length, tokens, Window(tokens, tokens, tokens, length))
    pictures, position = spaced(torch.zeros(3, 9).long(), 10**6), torch.tensor([1, 6])
    module.commit_window(verdict, torch.tensor([2, 1]), pictures, position)
    return {"pictures": pictures, "position": position}


RULES = {
    "maximal": Rules(),
    "independent": Rules(coupling="independent"),
    "gumbel": Rules(verify="gumbel"),
    "greedy": Rules(verify="greedy"),
    "uniform": Rules(start="uniform"),
    "repeat": Rules(start="repeat"),
    "filtered": Rules(guidance_scale=2.0, top_k=5, top_p=0.9),
}
# Where a size is that of several tiles, the last of them is not full.
CALLS: dict[str, Callable[[Any], Results]] = {
    **{
        f"verify {name}": lambda module, rules=rules: decisions(verified(module, rules))
        for name, rules in RULES.items()
    },
    "verify finished": lambda module: decisions(
        verified(module, position=torch.tensor([3, LENGTH]))
    ),
    **{
        f"verify {name}, again": lambda module, rules=RULES[name]: verified_twice(module, rules)
        for name in ("independent", "filtered")
    },
    "correct": lambda module: corrected(module, 5),
    "correct tiles": lambda module: corrected(module, rank=70, width=18, vocab=70),
    "embed": embedded,
    "embed tiles": lambda module: embedded(module, 1500),
    "denoise": denoised,
    "denoise tiles": lambda module: denoised(module, 1500),
    "denoise window": window_denoised,
    "denoise window tiles": lambda module: window_denoised(module, 1500),
    "embed window": window_embedded,
    "embed window tiles": lambda module: window_embedded(module, 1500),
    "append": appended,
    "append tiles": lambda module: appended(module, 601),
    "truncate": truncated,
    "compact": compacted,
    "compact tiles": lambda module: compacted(module, 230),
    "commit": committed,
}


class Operations(TorchDispatchMode):
    """Notes the kernels that every operation of ours launches, by the guard of their launches."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self.guard = guard
        self.kernels: dict[str, list[str]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = len(self.guard.launched)
        result = func(*args, **(kwargs or {}))
        if func.namespace == "sjd2":
            self.kernels[func.overloadpacket.__name__] = self.guard.launched[before:]
        return result


@contextmanager
def poisoned_allocations() -> Iterator[None]:
    """Inside the block torch fills what it allocates with NaN, or with a very large number."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


class Play(NamedTuple):
    """A call under the guard."""

    found: Results
    accesses: int
    kernels: dict[str, list[str]]  # of every operation


@cache
def played(name: str) -> Play:
    with pytest.MonkeyPatch.context() as patch, poisoned_allocations():
        guard = Guard(patch)
        with Operations(guard) as operations:
            found = CALLS[name](triton)
    return Play(found, guard.accesses, operations.kernels)


@pytest.mark.parametrize("name", CALLS)
def test_kernels_read_and_write_inside_their_tensors(name: str) -> None:
    """And compute what their twins compute, in any order, whatever lies around.

    Kills: a missing mask, a last tile that is taken for whole or left out, a stride taken for
    contiguous, a grammar read beyond its end, a result that nobody has written.
    """
    play, expected = played(name), CALLS[name](eager)
    assert play.accesses > 10
    assert play.found.keys() == expected.keys()
    for what, found in play.found.items():
        if found.is_floating_point():
            torch.testing.assert_close(found, expected[what], rtol=1e-4, atol=1e-4)
        else:
            assert torch.equal(found, expected[what]), what


def launched_in(module: Any) -> set[str]:
    """The kernels that a module launches: `kernel[grid](...)`."""
    tree = ast.walk(ast.parse(inspect.getsource(module)))
    heads = [one.func for one in tree if isinstance(one, ast.Call)]
    launched = [one.value for one in heads if isinstance(one, ast.Subscript)]
    names = {one.id for one in launched if isinstance(one, ast.Name)}
    return {name for name in names if isinstance(getattr(module, name), InterpretedFunction)}


@cache
def kernels() -> set[str]:
    """Every kernel that is launched in sjd2/kernels/."""
    found = pkgutil.walk_packages(sjd2.kernels.__path__, "sjd2.kernels.")
    return set().union(*(launched_in(import_module(module.name)) for module in found))


def test_every_kernel_is_played() -> None:
    """Kills: a new kernel that no call here launches, or that nobody has sent far."""
    launches = [play.kernels.values() for play in map(played, CALLS)]
    assert {one for play in launches for names in play for one in names} == kernels()
    assert {kernel for kernel, _ in FAR} | {"truncate_kernel"} == kernels()


def test_kernels_of_every_operation_are_counted() -> None:
    """Kills: a launch count of the fake GPU that is not the one of the operation."""
    registered = torch._C._dispatch_get_all_op_names()
    ours = {name.removeprefix("sjd2::") for name in registered if name.startswith("sjd2::")}
    found = [(op, len(run)) for play in map(played, CALLS) for op, run in play.kernels.items()]
    assert set(found) == set(KERNELS.items())
    assert KERNELS.keys() == ours


@jit
def doubled(numbers, out, size, wrong: tl.constexpr, block: tl.constexpr):
    """Twice some numbers, or what is `wrong` instead."""
    program = tl.program_id(0)
    at = program * block + tl.arange(0, block)
    inside = at < size
    if wrong == "mask":
        inside = at < size + 1
    if wrong == "writers":
        at = tl.arange(0, block)
    if wrong == "tile":
        inside = inside & (program + 1 < tl.num_programs(0))
    if wrong == "order":
        tl.store(out + at, tl.load(numbers + at, mask=inside) * 2, mask=inside)
        numbers = tl.load(out + program * 0)  # of the first program
        tl.store(out + at, numbers + at * 2, mask=inside)
    elif wrong == "beside":
        tl.atomic_add(out + size, 1)
    else:
        tl.store(out + at, tl.load(numbers + at, mask=inside) * 2, mask=inside)


@pytest.mark.parametrize("wrong", ["", "mask", "writers", "tile", "order", "beside"])
def test_a_wrong_kernel_is_found(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known-bad: what a kernel may do wrong, one at a time; and one that does nothing wrong.

    Kills: a guard that guards nothing.
    """
    Guard(monkeypatch)
    numbers = torch.arange(10)
    with poisoned_allocations():
        out = torch.empty(10, dtype=torch.int64)
    raised = ""
    try:
        doubled[(3,)](numbers, out, 10, wrong=wrong, block=4)
    except Exception as error:
        raised = str(error)
    said = {"mask": "left the tensors", "writers": "two programs", "beside": "wrote beside"}
    assert said.get(wrong, "") in raised
    assert bool(raised) == (wrong in said)
    assert torch.equal(out, numbers * 2) == (not wrong)


def test_the_guard_sees_an_access_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known-bad: a cache with room for one window less than is written.

    Kills: a guard that guards nothing.
    """
    Guard(monkeypatch)
    keys, values, new = random(1, 2, 4, 5), random(1, 2, 4, 5), random(1, 2, 3, 5)
    with pytest.raises(Exception, match="left the tensors"):
        triton.kv_append(keys, values, new, new, torch.tensor([2]))


# Kernels, calls that launch them, and the axis of the grid that counts images, rows, slots or
# heads; so far out, the products with rows, columns and sizes are beyond 2^31 and the number itself
# is not. There is none for `kv_truncate`, which has 8 bytes a row and nothing to multiply.
FAR = {
    ("columns_kernel", "verify maximal"): (1, 50_000_000),
    ("columns_kernel", "verify filtered"): (1, 40_000_000),
    ("columns_kernel", "verify independent, again"): (1, 50_000_000),
    ("rows_kernel", "verify maximal"): (1, 50_000_000),
    ("rows_kernel", "verify filtered"): (1, 40_000_000),
    ("shift_kernel", "correct"): (2, 60_000_000),
    ("activate_kernel", "correct"): (2, 150_000_000),
    ("embed_kernel", "embed"): (1, 110_000_000),
    ("denoise_kernel", "denoise"): (0, 400_000_000),
    ("denoise_window_kernel", "denoise window"): (1, 110_000_000),
    ("embed_window_kernel", "embed window"): (1, 110_000_000),
    ("append_kernel", "append"): (1, 100_000_000),
    ("compact_kernel", "compact"): (0, 100_000_000),
    ("commit_kernel", "commit"): (0, 800_000_000),
}


@pytest.mark.parametrize(("kernel", "name"), FAR, ids=lambda name: name)
def test_addresses_are_of_64_bits(kernel: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills: a row times its size in 32 bits, which lies 2^31 entries before where it should."""
    guard = Guard(monkeypatch, {kernel: FAR[kernel, name]})
    CALLS[name](triton)
    assert guard.furthest > 2**33


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
