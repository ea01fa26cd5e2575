"""Other ways from noise to tokens, beside the library's: forwards of each, on the embedded model.

    python bench/denoising_variants.py --resume           # continues a stopped run
    python bench/denoising_variants.py --resume --docs    # also write docs/ablation.md

Every method draws the same captions from the same seeds with what ships: the screening a batch of
them at the widest window, the table all of them. Forwards alone are counted, so a busy machine will
do. The sources of drafts are installed beside the library, whose loop, rule and adapter they use: a
draft without steps to go is fed as its token, so every one of them is exact.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean, median
from threading import get_ident
from typing import Any, Literal

import torch
from drawing import (
    METHODS,
    ROOT,
    Bench,
    Results,
    environment,
    machine,
    put_between,
    share_of,
    table,
)
from torch import Tensor

from sjd2.companions import Adapter, find_companions, make_adapter
from sjd2.companions.adapter import Gate
from sjd2.config import DecodingConfig
from sjd2.kernels import Verdict, denoise_step, noisy_embed
from sjd2.kernels.verify_window.eager import grammar_at, stored_at
from sjd2.models import family_of
from sjd2.patching import installed
from sjd2.protocol import ImageModel
from sjd2.sampler.drafts import Drafts
from sjd2.sampler.method import Method, resolve
from sjd2.sampler.noise import NoisyDrafts, Trajectory
from sjd2.sampler.state import DecodingState

PUBLISHED = "sjd independent, uniform starts"
Content = Literal["token", "last", "above", "token above"]


@dataclass(frozen=True)
class Way:
    """What differs from `NoisyDrafts`.

    Attributes:
        front: columns of a window that are fed as tokens, whatever steps their drafts have to go.
        level: of a draft that enters; the levels below it are scaled along.
        content: what noise is mixed with where drafts enter: the embedding of their "token", or
            that of the "token above", in the row before; or the mean embedding under the
            distribution of the "last" column that was predicted, from which entering tokens are
            drawn, or under that of the column "above".
        confident: nats. A draft whose distribution has an entropy of fewer has fewer steps to go,
            none from K + 1 times fewer on.
        patience: 0, or drafts enter as tokens, and those of a picture become noise, behind the
            front, whenever it has got no further than a token a forward in so many of them.
        staggered: as in `Trajectory`.
    """

    front: int = 0
    level: float = 1.0
    content: Content = "token"
    confident: float = 0.0
    patience: int = 0
    staggered: bool = True


@dataclass(frozen=True)
class LowerTrajectory(Trajectory):
    """A trajectory whose levels are scaled, so that drafts enter at `level`."""

    level: float = 1.0

    @property
    def levels(self) -> Tensor:
        """See `Trajectory`."""
        return self.level * super().levels


class VariedDrafts(NoisyDrafts):
    """Drafts on another way from noise to tokens; see `NoisyDrafts` for the rest and the RNG.

    `denoise_window` is taken apart here, into the steps that differ.
    """

    def __init__(self, trajectory: Trajectory, state: DecodingState, gate: Gate, way: Way) -> None:
        self.way = way
        self.slow = torch.zeros_like(state.position)  # forwards of a token at most, up to now
        super().__init__(trajectory, state, gate)

    def begin(self, state: DecodingState) -> VariedDrafts:
        """See `Drafts`."""
        self.gate.noisy = None
        return VariedDrafts(self.trajectory, state, self.gate, self.way)

    def advance(self, state: DecodingState, verdict: Verdict) -> None:
        """See `Drafts`."""
        super().advance(state, verdict)
        if not self.way.patience:
            return
        # Whatever keeps a picture back stands in its drafts, and the model reads it there again.
        self.slow = torch.where(verdict.accept_length > 1, 0, self.slow + 1)
        is_stuck = self.slow == self.way.patience
        self.slow = self.slow.masked_fill(is_stuck, 0)
        self.steps = torch.where(is_stuck[:, None], self._most(state), self.steps)
        noisy = (is_stuck[:, None] & (self.steps > 0)).unsqueeze(-1)
        entering = self._enter(verdict.window.tokens, state)
        self.embeddings = torch.where(noisy, entering, self.embeddings)

    def keep_rows(self, rows: Tensor) -> None:
        """See `Drafts`."""
        super().keep_rows(rows)
        self.slow = self.slow[rows]

    def put_rows(self, rows: Tensor, other: Drafts) -> None:
        """See `Drafts`."""
        assert isinstance(other, VariedDrafts)
        super().put_rows(rows, other)
        self.slow = self.slow.index_copy(0, rows, other.slow)

    def _denoise(self, tokens: Tensor, accept_length: Tensor, state: DecodingState) -> None:
        levels, entering = self.noise.levels, self.trajectory.steps
        if self.way.patience:
            entering = 0
        last = self.steps.shape[1] - 1
        source = torch.arange(tokens.shape[1], device=tokens.device) + accept_length[:, None]
        old, is_new = source.clamp(max=last), source > last
        before = self.steps.gather(1, old)
        after = torch.where(is_new, entering, (before - 1).clamp(min=0))
        self.steps = torch.minimum(after, self._most(state))
        rows = torch.arange(len(tokens), device=tokens.device)[:, None]
        refined = denoise_step(
            self.embeddings[rows, old],
            self.table[tokens],
            levels[before.masked_fill(is_new, 0)],
            levels[self.steps.masked_fill(is_new, 0)],
        )
        fresh = self._enter(tokens, state)
        self.embeddings = torch.where(is_new.unsqueeze(-1), fresh, refined)

    def _most(self, state: DecodingState) -> Tensor:
        """The most denoising steps that drafts may have to go: int64 [B, W]."""
        window = state.window
        column = torch.arange(window.width, device=state.position.device)
        most = self.noise.most[column].masked_fill(column < self.way.front, 0)
        most = most.expand(len(state.position), -1)
        if self.grammar is not None:
            most = most.masked_fill(grammar_at(self.grammar, state.position, window.width) >= 0, 0)
        if not self.way.confident:
            return most
        # Of the distributions and not of the tokens drawn: what a slot is fed as says nothing new.
        entropy = torch.special.entr(window.draft_logits.exp()).sum(dim=-1)
        entropy = entropy.gather(1, stored_at(window))
        certain = entropy / self.way.confident * (self.trajectory.steps + 1)
        return torch.minimum(most, certain.long())

    def _enter(self, tokens: Tensor, state: DecodingState) -> Tensor:
        pure = noisy_embed(
            tokens,
            self.table,
            timestep=torch.ones_like(tokens, dtype=torch.float32),
            mean=self.noise.mean,
            std=self.noise.std,
            seed=state.seed,
            position=state.position,
        )
        level = self.timestep.unsqueeze(-1)
        mixed = (1 - level) * self._content(tokens, state) + level * pure
        return torch.where(level > 0, mixed.to(pure.dtype), self.table[tokens])

    def _content(self, tokens: Tensor, state: DecodingState) -> Tensor:
        """What noise is mixed with, [B, W, D]."""
        kind, columns = self.way.content, state.columns()
        if kind == "token":
            return self.table[tokens]
        row = state.geometry.row_width
        if kind == "token above":
            above = state.standing().gather(1, (columns - row).clamp(min=0))
            return self.table[torch.where(columns < row, tokens, above)]
        stored = stored_at(state.window)
        at = torch.full_like(stored, state.window.draft_logits.shape[1] - 1)
        if kind == "above":
            # What enters has its row above in the window, unless that is narrower than a row.
            at[:, row:] = stored[:, :-row]
        means = state.window.draft_logits.exp() @ self.table.float()
        return means.gather(1, at.unsqueeze(-1).expand(-1, -1, means.shape[2]))


@contextmanager
def varied_drafts(
    model: ImageModel,
    state: DecodingState,
    *,
    adapter: Adapter,
    config: DecodingConfig,
    way: Way,
) -> Iterator[VariedDrafts]:
    """The source of `VariedDrafts`; see `noisy_drafts`."""
    steps, schedule = config.denoising_steps, config.schedule
    trajectory = LowerTrajectory(
        steps, schedule, state.next_width, adapter, way.staggered, way.level
    )
    with adapter.attached(model.backbone) as gate:
        gate.thread = get_ident()
        yield VariedDrafts(trajectory, state, gate, way)


@dataclass(frozen=True)
class Variant:
    """A method of the table.

    Attributes:
        settings: of `DecodingConfig`, but for the window.
        way: from noise to tokens; None for the library's own.
        corrected: whether the corrector re-drafts its windows.
        untrained: whether an adapter that changes nothing takes the place of the one that ships.
    """

    settings: dict[str, Any]
    way: Way | None = None
    corrected: bool = False
    untrained: bool = False

    def method(self, bench: Bench, window: int) -> Method:
        """How the model of a bench decodes by it."""
        family = family_of(bench.model)
        companions = find_companions(bench.model, family)
        if self.untrained:
            companions = replace(companions, adapter=make_adapter(family, rank=0))
        kinds = ["adapter"] * (self.settings["method"] == "sjd2")
        companions = companions.only(kinds + ["corrector"] * self.corrected)
        config = DecodingConfig(**self.settings)
        if config.method != "ar":
            config = replace(config, window=window)
        method = resolve(config, companions)
        if self.way is None:
            return method
        drafts = partial(varied_drafts, adapter=companions.adapter, config=config, way=self.way)
        return replace(method, drafts=drafts)


def _sjd(name: str, **options: Any) -> dict[str, Any]:
    settings = {key: value for key, value in METHODS[name].items() if key != "corrector"}
    return {**settings, **options}


def _steps(count: int, schedule: str = "linear", **options: Any) -> dict[str, Any]:
    return {"method": "sjd2", "denoising_steps": count, "schedule": schedule, **options}


BASELINES = {
    "ar": Variant({"method": "ar"}),
    PUBLISHED: Variant(_sjd("sjd independent", start="uniform")),
    "sjd independent": Variant(_sjd("sjd independent")),
    "sjd gumbel": Variant(_sjd("sjd gumbel")),
    "sjd maximal": Variant(_sjd("sjd maximal")),
    "corrected gumbel": Variant(_sjd("sjd gumbel"), corrected=True),
    "corrected maximal": Variant(_sjd("sjd maximal"), corrected=True),
    "sjd2, K = 2": Variant(_steps(2)),
    "sjd2, K = 2, corrected": Variant(_steps(2), corrected=True),
}
# With one step and bands, the front half of a window is clean; with two, the first third.
SCREENED = {
    **{
        f"K = 1, when stuck for {patience}, behind column {front}": Variant(
            _steps(1), Way(patience=patience, front=front, staggered=False)
        )
        for patience, front in (
            (2, 0),
            (3, 0),
            (3, 8),
            (3, 24),
            (4, 0),
            (6, 0),
            (8, 0),
            (12, 0),
            (8, 8),
            (16, 8),
        )
    },
    **{
        f"K = 1, when stuck for {patience}, behind column {front}, gumbel": Variant(
            _steps(1, verify="gumbel"), Way(patience=patience, front=front, staggered=False)
        )
        for patience, front in ((3, 8), (8, 0))
    },
    "K = 1, gumbel": Variant(_steps(1, verify="gumbel")),
    "K = 2, gumbel": Variant(_steps(2, verify="gumbel")),
    "K = 1": Variant(_steps(1)),
    "K = 4": Variant(_steps(4)),
    "K = 2, karras": Variant(_steps(2, "karras")),
    "K = 4, karras": Variant(_steps(4, "karras")),
    "K = 2, not staggered": Variant(_steps(2), Way(staggered=False)),
    **{
        f"K = {count}, behind column {front}": Variant(
            _steps(count), Way(front=front, staggered=False)
        )
        for count, front in ((1, 16), (1, 32), (1, 64), (1, 80), (2, 48), (2, 64))
    },
    **{
        f"K = 2, from level {level:g}": Variant(_steps(2), Way(level=level))
        for level in (0.75, 0.5, 0.25)
    },
    **{
        f"K = 2, from level {level:g} and {name}": Variant(
            _steps(2), Way(level=level, content=content)
        )
        for level, content, name in (
            (0.5, "last", "the mean of the last column's distribution"),
            (0.25, "last", "the mean of the last column's distribution"),
            (0.5, "above", "the mean of the distribution above"),
            (0.5, "token above", "the token above"),
        )
    },
    **{
        f"K = 2, fewer steps below {nats:g} nats": Variant(_steps(2), Way(confident=nats))
        for nats in (2, 4)
    },
}


STUCK = "K = 1, when stuck for 8, behind column 0"
MEANS = "K = 2, from level 0.5 and the mean of the last column's distribution"
SCREENED |= {
    f"{name}, adapter untrained": replace(one, untrained=True)
    for name, one in {**BASELINES, **SCREENED}.items()
    if name in ("sjd2, K = 2", "K = 1", "K = 2, gumbel", "K = 4", STUCK.replace("8", "4", 1), STUCK)
}
SCREENED |= {
    f"{name}, corrected": replace(SCREENED[name], corrected=True)
    for name in (
        "K = 1",
        "K = 1, behind column 64",
        "K = 1, behind column 80",
        "K = 1, when stuck for 3, behind column 8",
        "K = 1, when stuck for 3, behind column 8, gumbel",
        STUCK,
        f"{STUCK}, gumbel",
        f"{STUCK.replace('8', '4', 1)}, adapter untrained",
        "K = 1, adapter untrained",
        "K = 2, gumbel, adapter untrained",
        "sjd2, K = 2, adapter untrained",
    )
}
VARIANTS = BASELINES | SCREENED
# What the table goes on with: the best, and at the widest window the best of every kind.
BEST = (
    "sjd2, K = 2, adapter untrained",
    "sjd2, K = 2, adapter untrained, corrected",
    STUCK,
    f"{STUCK}, adapter untrained",
)
# Drawn once more at the widest window, from as many captions that nothing was chosen on.
CONFIRMED = (
    "sjd maximal",
    "sjd2, K = 2",
    MEANS,
    "sjd2, K = 2, adapter untrained",
    f"{STUCK}, adapter untrained",
    "corrected maximal",
    "sjd2, K = 2, corrected",
    "sjd2, K = 2, adapter untrained, corrected",
)
FINALISTS = (
    "K = 1",
    "K = 4",
    "K = 1, adapter untrained",
    "K = 1, adapter untrained, corrected",
    "K = 2, gumbel, adapter untrained",
    "K = 2, gumbel, adapter untrained, corrected",
    "K = 4, adapter untrained",
    "K = 1, behind column 32",
    "K = 1, behind column 80",
    "K = 2, from level 0.25",
    MEANS,
    "K = 2, from level 0.5 and the mean of the distribution above",
    *(STUCK.replace("8", patience, 1) for patience in ("4", "6", "12")),
    "K = 1, when stuck for 8, behind column 8",
    "K = 1, when stuck for 16, behind column 8",
    "K = 1, when stuck for 4, behind column 0, adapter untrained",
    f"{STUCK}, gumbel",
    f"{STUCK}, corrected",
    "K = 1, when stuck for 3, behind column 8, corrected",
    "K = 1, when stuck for 4, behind column 0, adapter untrained, corrected",
)


def draw(bench: Bench, variant: Variant, window: int, first: int, batch: int) -> dict[str, Any]:
    """A batch of pictures from caption `first` on."""
    with installed(bench.model, variant.method(bench, window)):
        drawn = bench.drawn(first, batch)
    return {"forwards": drawn.forwards, "passed": drawn.passed}


def ratio(base: Sequence[int], own: Sequence[int]) -> str:
    """How many times fewer forwards, with the 95 % interval of a paired bootstrap over captions.

    RNG: a generator of its own, seed 0.
    """
    both = torch.tensor([base, own], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    again = torch.randint(both.shape[1], (10_000, both.shape[1]), generator=generator)
    means = both[:, again].mean(dim=-1)
    bounds = torch.quantile(means[0] / means[1], torch.tensor([0.025, 0.975], dtype=torch.float64))
    low, high = bounds.tolist()
    return f"{mean(base) / mean(own):.2f} ({low:.2f} to {high:.2f})"


def all_forwards(rows: Sequence[dict[str, Any]]) -> list[int]:
    """Forwards of every picture of some batches."""
    return [one for row in rows for one in row["forwards"]]


def screening(windows: Sequence[int]) -> list[tuple[str, int]]:
    """(method, window) of the first batch of captions."""
    return [(name, max(windows)) for name in VARIANTS if name != "ar"]


def tabled(windows: Sequence[int]) -> list[tuple[str, int]]:
    """(method, window) of all captions."""
    rows = [("ar", 1)]
    for window in windows:
        finalists = FINALISTS if window == max(windows) else ()
        rows += [(name, window) for name in (*BASELINES, *BEST, *finalists) if name != "ar"]
    return rows


def report(found: dict[str, Any]) -> str:
    """The table and the screening in Markdown, under a line about their settings."""
    drawn: dict[tuple[str, int], list[dict[str, Any]]] = {}
    again: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in found["rows"]:
        of = drawn if row["first"] < found["captions"] else again
        of.setdefault((row["method"], row["window"]), []).append(row)

    def line(method: str, window: int, of: Any, batches: int | None = None) -> list[str]:
        rows = of[method, window][:batches]
        forwards = all_forwards(rows)
        maximal = "corrected maximal" if VARIANTS[method].corrected else "sjd maximal"
        bases = [of.get((name, window), [])[:batches] for name in (PUBLISHED, maximal)]
        return [
            method,
            str(window),
            f"{mean(forwards):.1f}",
            f"{median(forwards):g}",
            *(ratio(all_forwards(base), forwards) if base else "" for base in bases),
            share_of(sum(row["passed"] for row in rows), len(forwards)),
        ]

    head = ("method", "W", "mean", "median", "of SJD", "of maximal", "checker (95 %)")
    windows, few = found["windows"], len(found["rows"][0]["forwards"])
    return (
        f"Forwards a picture, {found['captions']} held-out captions from one seed each, guidance "
        f"{found['guidance']:g}, temperature 1, {machine(found['environment'])}, with other work "
        f"beside it: no seconds. Made by `{found['command']}`.\n\n"
        f"{table(head, [line(*one, drawn) for one in tabled(windows)])}\n\n"
        f"As many other captions, which nothing was chosen on:\n\n"
        f"{table(head, [line(name, max(windows), again) for name in CONFIRMED])}\n\n"
        f"The screening, {few} captions of the first table:\n\n"
        f"{table(head, [line(*one, drawn, 1) for one in screening(windows)])}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8, help="also the pictures of the screening")
    parser.add_argument("--windows", type=int, nargs="+", default=[64, 96])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="JSON file; default bench/results/variants-...")
    parser.add_argument("--resume", action="store_true", help="keep the rows that are known")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/ablation.md")
    given = parser.parse_args()
    bench = Bench(2 * given.captions, given.device)
    out = given.out or ROOT / "bench" / "results" / f"variants-{given.device}.json"
    facts = {
        "environment": environment(bench.model),
        "captions": given.captions,
        "windows": given.windows,
        "guidance": bench.guidance,
    }
    results = Results(out, facts, given.resume)
    plan = [(*one, 0) for one in screening(given.windows)]
    # The widest first: what it draws of the screening's captions is known by then.
    for one in sorted(tabled(given.windows), key=lambda one: -one[1]):
        plan += [(*one, first) for first in range(0, given.captions, given.batch)]
    for name in CONFIRMED:
        others = range(given.captions, 2 * given.captions, given.batch)
        plan += [(name, max(given.windows), first) for first in others]
    for name, window, first in dict.fromkeys(plan):
        of = {"method": name, "window": window, "first": first}
        results.row(of, partial(draw, bench, VARIANTS[name], window, first, given.batch))
        print(of, results.found["rows"][-1]["forwards"], flush=True)
    text = report(results.found)
    print(text)
    if given.docs:
        put_between(ROOT / "docs" / "ablation.md", "denoising_variants", text)


if __name__ == "__main__":
    main()
