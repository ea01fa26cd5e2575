"""How to decode: validated, immutable settings."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, Literal, TypeVar, get_args

from sjd2.choices import Backend, Coupling, Start

MethodName = Literal["auto", "sjd2", "sjd", "ar"]
Verification = Literal["ratio", "gumbel"]
Schedule = Literal["karras", "linear"]
CorrectorPasses = int | Literal["sweep", "auto"]

_T = TypeVar("_T")
_LARGEST_SEED = 2**63 - 1


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that names the known option closest to a mistyped one, and all that exist."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known are {', '.join(names)}"


def _refuse_unknown_keys(cls: type[_T]) -> type[_T]:
    """Let a dataclass name the nearest field when it is given one that it does not have."""
    build: Callable[..., None] = cls.__init__
    known = {field.name for field in fields(cls)}  # type: ignore[arg-type]

    @wraps(build)
    def checked(self: Any, **options: Any) -> None:
        for name in options.keys() - known:
            raise TypeError(f"unknown option {name!r}: {nearest(name, known)}")
        build(self, **options)

    cls.__init__ = checked  # type: ignore[method-assign]
    return cls


@_refuse_unknown_keys
@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """How `generate` decodes an accelerated model.

    Args:
        method: "sjd2" (speculative Jacobi-denoising decoding; needs a denoising adapter), "sjd"
            (speculative Jacobi decoding), "ar" (the same sampler, one token a forward) or "auto"
            ("sjd2" where there is an adapter, else "sjd"; see `accelerate`).
        window: slots fed in one forward, at least 2, or "auto": as many as `auto_window` says for
            the device and the rows of the batch. "ar" always uses 1.
        verify: "ratio" (the probabilistic criterion) or "gumbel" (same-seed mode: the very tokens
            that method "ar" draws from the same seed).
        coupling: what becomes of unaccepted drafts under "ratio": "maximal" keeps each as often as
            exactness allows, "independent" draws all of them again.
        start: the draft of a position that enters the window: drawn from the distribution of its
            "neighbour" to the left, a "uniform" token, or "repeat" that neighbour's. It changes
            speed only.
        denoising_steps: forwards that "sjd2" takes from pure noise to a token, at least 1.
        schedule: how their noise levels are spaced, "karras" or "linear".
        corrector_passes: how often the corrector, if there is one, goes over a window between two
            forwards: at least once, all columns at a time, or "sweep": one column after another, or
            "auto": 2 on a CPU, where a pass takes as long as some layers of a small model, and 8
            elsewhere, where it should take a hundredth of a forward.
        exact: False makes "sjd2" follow the rules of the paper to the letter, to reproduce it. They
            are biased: what is drawn is no longer quite the model's.
        backend: "auto", "triton" or "eager"; see `sjd2 info`.
        cuda_graphs: on a GPU, record an iteration and replay it, instead of launching it anew; the
            same tokens. Memory for the recordings, the cache included, is kept between calls. A
            call that cannot be recorded (logits processors, offloaded weights, the eager
            operations) says so in a warning.
        compile: let `torch.compile` make one program of a window's forward, for every shape of
            windows and four lengths of the cache; the first call of a shape takes minutes. With an
            adapter or offloaded weights a warning says that it is not done.
        seed: one int per image, or an int s meaning s, s + 1, ... for the images of a call, or
            None: one draw from torch's default generator, so `torch.manual_seed` works as usual.
        progress: show how many tokens are committed: a bar on a terminal, and elsewhere a line
            every half minute.
        trace: record the iteration at which every token was committed.

    Raises:
        TypeError: an unknown option; the message names the nearest known one.
        ValueError: a value that is not allowed; the message says what is.
    """

    method: MethodName = "auto"
    window: int | Literal["auto"] = "auto"
    verify: Verification = "ratio"
    coupling: Coupling = "maximal"
    start: Start = "neighbour"
    denoising_steps: int = 2
    schedule: Schedule = "karras"
    corrector_passes: CorrectorPasses = "auto"
    exact: bool = True
    backend: Backend = "auto"
    cuda_graphs: bool = False
    compile: bool = False
    seed: int | Sequence[int] | None = None
    progress: bool = False
    trace: bool = False

    def __post_init__(self) -> None:
        _one_of("method", self.method, MethodName)
        _one_of("verify", self.verify, Verification)
        _one_of("coupling", self.coupling, Coupling)
        _one_of("start", self.start, Start)
        _one_of("schedule", self.schedule, Schedule)
        _one_of("backend", self.backend, Backend)
        for name in ("exact", "cuda_graphs", "compile", "progress", "trace"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r}: must be True or False")
        if not self.exact and (self.method in ("sjd", "ar") or self.verify != "ratio"):
            raise ValueError("exact=False: the published rules are those of method 'sjd2', 'ratio'")
        if not self.exact and self.backend == "triton":
            raise ValueError("exact=False: the published rules exist as backend='eager' only")
        if self.window != "auto":
            _check_at_least("window", self.window, 2, "'auto' or ")
        _check_at_least("denoising_steps", self.denoising_steps, 1)
        if self.corrector_passes not in ("auto", "sweep"):
            _check_at_least("corrector_passes", self.corrector_passes, 1, "'auto', 'sweep' or ")
        if isinstance(self.seed, Sequence):
            # A tuple of our own: the caller may go on to change a list.
            object.__setattr__(self, "seed", tuple(map(checked_seed, self.seed)))
        elif self.seed is not None:
            object.__setattr__(self, "seed", checked_seed(self.seed))

    def slots(self, length: int, device: str, rows: int = 1) -> int:
        """Slots of a window for pictures of `length` tokens on a type of device, such as "cpu".

        Args:
            length: tokens in a picture.
            device: type, as torch names it.
            rows: fed in one forward; with guidance two for every picture.
        """
        if self.method == "ar":
            return 1
        if self.window == "auto":
            return min(auto_window(device, rows), length)
        return min(self.window, length)

    def passes(self, device: str) -> int | Literal["sweep"]:
        """Passes of a corrector on a type of device."""
        if self.corrector_passes == "auto":
            return 2 if device == "cpu" else 8
        return self.corrector_passes


def auto_window(device: str, rows: int) -> int:
    """The window of "auto": a function of these two alone, never of a clock.

    A forward costs about what one token costs until so many slots are fed in all; wider windows
    save forwards, but cost more than they save. On a CPU, 128 slots (measured with the embedded
    model, docs/scale.md), of which a row gets at most 32 and never below 8, which are still faster
    than token by token there. On a GPU, 256 slots (by the roofline of its arithmetic and its
    memory, not measured), at most 96 for a row, down to one, which is token by token.

    Args:
        device: type, as torch names it.
        rows: fed in one forward, at least 1; with guidance two for every picture.

    Returns:
        Slots, 1 to 96.
    """
    if device == "cpu":
        return max(8, min(32, 128 // rows))
    return max(1, min(96, 256 // rows))


def checked_seed(seed: object) -> int:
    """The seed as an int in [0, 2^63).

    Raises:
        ValueError: it is no integer, or out of range.
    """
    try:
        value = operator.index(seed)  # type: ignore[arg-type]
    except TypeError:
        value = -1
    if isinstance(seed, bool) or not 0 <= value <= _LARGEST_SEED:
        raise ValueError(f"seed={seed!r}: must be an integer from 0 to 2**63 - 1")
    return value


def seeds_for(seed: int | Sequence[int], images: int) -> list[int]:
    """One seed per image of a call.

    Args:
        seed: an int s meaning s, s + 1, ..., or one seed per image.
        images: how many the call draws.

    Raises:
        ValueError: a list of another length, or a seed out of range.
    """
    if isinstance(seed, Sequence):
        if len(seed) != images:
            raise ValueError(f"seed has {len(seed)} entries, but this call draws {images} images")
        return [checked_seed(one) for one in seed]
    return [checked_seed(checked_seed(seed) + image) for image in range(images)]


def _one_of(name: str, value: object, choices: Any) -> None:
    allowed = get_args(choices)
    if value not in allowed:
        raise ValueError(
            f"{name}={value!r}: must be one of {', '.join(repr(choice) for choice in allowed)}"
        )


def _check_at_least(name: str, value: object, least: int, instead: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r}: must be {instead}an integer of at least {least}")
