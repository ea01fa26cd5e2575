"""Corrections without statistics: every branch of passes and forwards, weighed in float64.

`correct_window` and `decide` are the functions that the sampler runs; only their randomness is
replaced, by scripts that between them take every branch. That the numbers which passes and forwards
really draw are independent is for `tests/sampler/test_addresses.py` to say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from sjd2.kernels import Rules, Shifts, Window, philox
from sjd2.kernels.correct_window import eager
from sjd2.kernels.philox import Stream
from sjd2.kernels.verify_window.eager import decide
from sjd2.protocol import Sampling
from tests.kernels.test_verify_window_enumeration import (
    Denoising,
    Scripts,
    bounded,
    total_variation,
)
from tests.table_model import TableModel

PROMPT = (1,)
OFFSETS, RANK = (1, 2), 4
FREE = Sampling(True)

Mutation = Callable[[Window, Window, Window], Window]  # scored, before a pass, after it: after it


@dataclass
class Rows:
    """Rows of the sampler at the same picture position, each with the chance to get there."""

    committed: list[tuple[int, ...]]
    window: Window
    weight: Tensor  # float64 [n]
    steps: tuple[int, ...]  # denoising steps that the drafts have to go, the same in all rows

    def merged(self) -> Rows:
        """Rows whose future is the same, as one."""
        first: dict[tuple[object, ...], int] = {}
        weights: dict[int, float] = {}
        kept = self.window.draft_logits.numpy()
        for row, committed in enumerate(self.committed):
            chance = float(self.weight[row])
            if chance == 0:
                continue
            columns = (*self.window.slots[row].tolist(), *self.window.kinds[row].tolist())
            key = (committed, columns, int(self.window.offset[row]), kept[row].tobytes())
            at = first.setdefault(key, row)
            weights[at] = weights.get(at, 0.0) + chance
        rows = list(weights)
        return Rows(
            [self.committed[row] for row in rows],
            self.window.keep_rows(torch.tensor(rows, dtype=torch.int64)),
            torch.tensor(list(weights.values()), dtype=torch.float64),
            self.steps,
        )


class Enumeration:
    """One picture of a table model, drawn with corrections in all ways that there are.

    Args:
        model: of the picture.
        width: columns of a window.
        rules: of verification; sampling is `sampling`.
        sampling: what the target is.
        passes: after every forward.
        strength: standard deviation of the corrector's weights.
        denoising: of drafts that are fed as noise for some forwards first.
        mutation: of what a pass returns.
    """

    decide = staticmethod(decide)

    def __init__(
        self,
        model: TableModel,
        width: int,
        rules: Rules,
        sampling: Sampling,
        passes: int,
        strength: float,
        monkeypatch: pytest.MonkeyPatch,
        mutation: Mutation | None = None,
        denoising: Denoising | None = None,
    ) -> None:
        self.model, self.width, self.rules, self.sampling = model, width, rules, sampling
        self.passes, self.monkeypatch, self.mutation = passes, monkeypatch, mutation
        self.denoising = denoising or Denoising()
        generator = torch.Generator().manual_seed(3)
        vocab, kind = model.vocab_size, torch.float64
        features = torch.randn(len(OFFSETS) * (vocab + 1), RANK, generator=generator, dtype=kind)
        output = torch.randn(vocab, RANK, generator=generator, dtype=kind)
        self.shifts = Shifts(strength * features, torch.tensor(OFFSETS), strength * output)

    def pictures(self) -> Tensor:
        """The distribution of what is committed: float64 [V ** length]."""
        length, vocab = self.model.length, self.model.vocab_size
        found = torch.zeros(vocab**length, dtype=torch.float64)
        pending: dict[int, list[Rows]] = {0: [self._first()]}
        for at in range(length):
            for rows in pending.pop(at, []):
                for row in range(len(rows.committed)):
                    for after in self._iteration(rows, row):
                        end = len(after.committed[0])
                        if end < length:
                            pending.setdefault(end, []).append(after)
                            continue
                        for picture, chance in zip(
                            after.committed, after.weight.tolist(), strict=True
                        ):
                            number = 0
                            for token in picture:
                                number = number * vocab + token
                            found[number] += chance
            # Rows that meet again go on as one.
            alike: dict[tuple[int, ...], list[Rows]] = {}
            for rows in pending.pop(at + 1, []):
                alike.setdefault(rows.steps, []).append(rows)
            pending[at + 1] = [_joined(parts).merged() for parts in alike.values()]
        return found

    def _first(self) -> Rows:
        """Every first window of uniform drafts, forced tokens in their places."""
        columns = 1 if self.rules.start == "neighbour" else self.width
        vocab = self.model.vocab_size
        drafts = torch.cartesian_prod(*[torch.arange(vocab)] * columns).view(-1, columns)
        count = len(drafts)
        zero = torch.zeros(count, dtype=torch.int64)
        window = Window(
            torch.cat((zero[:, None], drafts), dim=1),
            torch.ones(count, columns, dtype=torch.uint8),
            torch.zeros(count, columns, vocab, dtype=torch.float64),
            zero,
        )
        window = eager.force(window, zero, self.model.grammar)
        weight = torch.full((count,), 1 / count, dtype=torch.float64)
        steps = bounded((self.denoising.steps,) * columns, self.denoising, self.width)
        return Rows([()] * count, window, weight, steps).merged()

    def _iteration(self, rows: Rows, row: int) -> list[Rows]:
        """What becomes of a row in a forward and the passes behind it, by what it committed."""
        committed, at = rows.committed[row], len(rows.committed[row])
        remaining = self.model.length - at
        window = rows.window.keep_rows(torch.tensor([row])).narrow(remaining)
        width, entering = window.width, min(self.width, remaining)
        # A noisy input says something of its token and its level, but is not the token.
        steps = rows.steps[:width]
        levels = self.model.symbols * torch.tensor(steps)
        drafts = (window.tokens[0] + levels).tolist()
        noisy = torch.tensor([[False, *(left > 0 for left in steps[:-1])]])
        prefixes = [committed + tuple(drafts[:column]) for column in range(width)]
        log_p = self.model.step_log_probs(PROMPT, prefixes, self.sampling)
        scripts = Scripts(width, entering, self.model.vocab_size)
        everyone = torch.zeros(scripts.rows, dtype=torch.int64)
        verdict, chance = scripts.play(
            lambda draws: self.decide(
                log_p.expand(scripts.rows, -1, -1),
                window.keep_rows(everyone),
                self.rules,
                draws,
                position=everyone + at,
                length=self.model.length,
                grammar=self.model.grammar,
                noisy=noisy.expand(scripts.rows, -1),
                next_width=entering,
            ),
            remaining,
        )
        codes = torch.tensor([self.model.prefix_code(PROMPT, prefix) for prefix in prefixes])
        added = philox.gumbel(codes, torch.zeros_like(codes), 1, Stream.EMBED, RANK).double()
        fed = self._standing([committed], at, window)
        seen = self._activated(added[None], fed, at)
        found = []
        for accepted in verdict.accept_length[chance > 0].unique().tolist():
            mine = ((verdict.accept_length == accepted) & (chance > 0)).nonzero().squeeze(1)
            tokens = verdict.tokens[mine, :accepted].tolist()
            after = Rows(
                [committed + tuple(some) for some in tokens],
                verdict.window.keep_rows(mine),
                rows.weight[row] * chance[mine],
                self._aged(steps, accepted, entering),
            )
            if at + accepted < self.model.length:
                left = self.model.length - at - accepted
                after.window, after.steps = after.window.narrow(left), after.steps[:left]
                after = self._corrected(after.merged(), added, seen)
            found.append(after)
        return found

    def _aged(self, steps: tuple[int, ...], accepted: int, width: int) -> tuple[int, ...]:
        """Steps of the next window: one less of every draft that stays."""
        aged = tuple(max(left - 1, 0) for left in steps[accepted:])
        entered = (self.denoising.steps,) * (width - len(aged))
        return bounded(aged + entered, self.denoising, self.width)

    def _corrected(self, rows: Rows, added: Tensor, seen: Tensor) -> Rows:
        """Rows behind all passes; they come from one forward."""
        scored, origin = rows.window, torch.arange(len(rows.committed))
        at = len(rows.committed[0])
        for number in range(1, self.passes + 1):
            scripts = Scripts(rows.window.width, 0, self.model.vocab_size)
            count = len(rows.committed)
            # Each row takes every branch.
            source = torch.arange(count).repeat_interleave(scripts.rows)
            scripts.kept = scripts.kept.repeat(count, 1)
            scripts.chosen = scripts.chosen.repeat(count, 1)
            scripts.rows = len(source)
            before = rows.window.keep_rows(source)
            committed = [rows.committed[row] for row in source.tolist()]
            same = scored.keep_rows(origin[source])
            window, chance = self._pass(before, same, committed, at, added, seen, scripts, number)
            if self.mutation is not None:
                window = self.mutation(same, before, window)
            weight = rows.weight[source] * chance
            kept = (weight > 0).nonzero().squeeze(1)
            chosen = [committed[row] for row in kept.tolist()]
            rows = Rows(chosen, window.keep_rows(kept), weight[kept], rows.steps)
            origin = origin[source][kept]
        return rows.merged()

    def _pass(
        self,
        window: Window,
        scored: Window,
        committed: list[tuple[int, ...]],
        at: int,
        added: Tensor,
        seen: Tensor,
        scripts: Scripts,
        number: int,
    ) -> tuple[Window, Tensor]:
        count = len(committed)
        position = torch.full((count,), at)

        def corrected(draws: Scripts) -> Window:
            self.monkeypatch.setattr(eager, "PhiloxDraws", lambda *address: draws)
            return eager.correct_window(
                window,
                scored,
                added.expand(count, -1, -1),
                seen.expand(count, -1, -1),
                self._standing(committed, at, window),
                self.shifts,
                self.rules,
                seed=position,
                position=position,
                iteration=1,
                correction=number,
                grammar=self.model.grammar,
            )

        return scripts.play(corrected, self.model.length)  # type: ignore[arg-type]

    def _standing(self, committed: list[tuple[int, ...]], at: int, window: Window) -> Tensor:
        """What stands at every picture position, drafts included."""
        tokens = torch.zeros(len(committed), self.model.length + self.width, dtype=torch.int64)
        tokens[:, :at] = torch.tensor(committed, dtype=torch.int64).view(len(committed), at)
        tokens[:, at : at + window.width] = window.tokens
        return tokens

    def _activated(self, added: Tensor, tokens: Tensor, at: int) -> Tensor:
        return eager.activate_window(
            added, tokens, self.shifts, position=torch.tensor([at]), grammar=self.model.grammar
        )


def _joined(parts: list[Rows]) -> Rows:
    """Rows at the same position; the distributions of a narrower window are its last one's, too."""
    width = max(part.window.draft_logits.shape[1] for part in parts)
    windows = []
    for part in parts:
        kept = part.window.draft_logits
        columns = torch.arange(width).clamp(max=kept.shape[1] - 1)
        windows.append(part.window._replace(draft_logits=kept[:, columns]))
    joined = Window(
        *(torch.cat(tensors) for tensors in zip(*(w[:4] for w in windows), strict=True))
    )
    committed = [one for part in parts for one in part.committed]
    weight = torch.cat([part.weight for part in parts])
    return Rows(committed, joined, weight, parts[0].steps)


def distance(enumeration: Enumeration) -> float:
    """Total variation between what is committed and what should be."""
    found = enumeration.pictures()
    assert abs(float(found.sum()) - 1) < 1e-12
    target = enumeration.model.picture_probabilities(PROMPT, enumeration.sampling)
    return total_variation(found, target)


CASES = [
    pytest.param(3, 3, 2, Rules(), FREE, None, id="window-2"),
    pytest.param(2, 4, 3, Rules(), FREE, None, id="window-3"),
    pytest.param(2, 4, 3, Rules(coupling="independent"), FREE, None, id="independent"),
    pytest.param(2, 4, 2, Rules(start="uniform"), FREE, None, id="uniform-starts"),
    pytest.param(2, 4, 2, Rules(start="repeat"), FREE, None, id="one-hot-starts"),
    pytest.param(3, 3, 2, Rules(), Sampling(True, top_k=2), None, id="top-k"),
    pytest.param(2, 4, 3, Rules(), FREE, {1: 1}, id="grammar"),
    pytest.param(2, 4, 2, Rules(start="uniform"), FREE, {2: 0}, id="grammar-of-uniform-starts"),
]


@pytest.mark.parametrize("strength", [0.25, 0.7, 3.0])
@pytest.mark.parametrize(("vocab", "length", "width", "rules", "sampling", "grammar"), CASES)
def test_corrected_windows_are_verified_without_bias(
    vocab: int,
    length: int,
    width: int,
    rules: Rules,
    sampling: Sampling,
    grammar: dict[int, int] | None,
    strength: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two passes, each over drafts that the last one moved, then verification, to the last token.

    Kills: a draft coupled to, or told, another distribution than it has; a correction that reads a
    neighbour which is not yet behind it; a window whose distributions did not slide with it.
    """
    model = TableModel(vocab, length, grammar)
    enumeration = Enumeration(model, width, rules, sampling, 2, strength, monkeypatch)
    assert distance(enumeration) < 1e-12


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("start", ["neighbour", "uniform"])
def test_windows_corrected_beside_noise_are_verified_without_bias(
    start: Any, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: a correction of columns that were predicted from noise, after which they count as
    clean.
    """
    model, rules, noise = TableModel(2, 4), Rules(start=start), Denoising(steps)
    assert distance(Enumeration(model, 3, rules, FREE, 2, 0.7, monkeypatch, None, noise)) < 1e-12


def test_the_enumeration_sees_corrections_verified_behind_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kills: noise that says all that tokens say."""
    enumeration = Enumeration(
        TableModel(2, 4), 3, Rules(), FREE, 2, 0.7, monkeypatch, None, Denoising(2)
    )
    right = enumeration.decide
    monkeypatch.setattr(
        enumeration, "decide", lambda *given, **named: right(*given, **(named | {"noisy": None}))
    )
    assert distance(enumeration) > 1e-4


def told_the_forward_s(scored: Window, before: Window, after: Window) -> Window:
    """A corrected draft that is told the distribution it was first drawn from."""
    return scored._replace(slots=after.slots)


def moved_without_coupling(scored: Window, before: Window, after: Window) -> Window:
    """The corrected distribution as a label, on a draft that stayed."""
    return after._replace(slots=before.slots)


def told_the_neighbour_s(scored: Window, before: Window, after: Window) -> Window:
    """Distributions one column off."""
    return after._replace(draft_logits=after.draft_logits.roll(1, dims=1))


@pytest.mark.parametrize("strength", [0.25, 0.7, 3.0])
@pytest.mark.parametrize(
    "mutation", [told_the_forward_s, moved_without_coupling, told_the_neighbour_s]
)
def test_the_enumeration_has_the_power_to_see_a_wrong_correction(
    mutation: Mutation, strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: an enumeration in which nothing is corrected."""
    model = TableModel(2, 4)
    enumeration = Enumeration(model, 3, Rules(), FREE, 2, strength, monkeypatch, mutation)
    assert distance(enumeration) > 1e-4
