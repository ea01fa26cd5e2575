"""The account of a call adds up."""

from __future__ import annotations

import json
from typing import Any

import pytest

import sjd2
from tests.janus_model import LENGTH, draw


@pytest.mark.parametrize("options", [{"window": 16}, {"window": 64, "verify": "gumbel"}])
def test_the_account_adds_up(janus: Any, options: dict[str, Any]) -> None:
    """Kills: forwards of finished rows charged, a token counted twice, images swapped."""
    sjd2.accelerate(janus, trace=True, **options)
    draw(janus, seed=2)
    stats = sjd2.decoding_stats(janus)
    assert stats.images == 3
    assert stats.tokens == 3 * LENGTH == stats.accepted + stats.recovered
    assert stats.prefill_passes == 0
    assert [sum(lengths) for lengths in stats.accept_lengths] == [LENGTH] * 3
    assert stats.forward_passes == tuple(map(len, stats.accept_lengths))
    assert stats.total_forward_passes == max(stats.forward_passes)
    assert stats.tokens_per_forward == stats.tokens / sum(stats.forward_passes)
    assert stats.step_compression > 1
    assert stats.committed_at is not None
    for lengths, when in zip(stats.accept_lengths, stats.committed_at, strict=True):
        assert [when.count(forward + 1) for forward in range(len(lengths))] == list(lengths)


@pytest.mark.parametrize(
    ("settings", "prefills"),
    [({"method": "ar"}, 0), ({"window": 8}, 0), ({"window": 8, "start": "uniform"}, 1)],
)
def test_every_forward_is_counted(janus: Any, settings: dict[str, Any], prefills: int) -> None:
    """Kills: a forward of the prompts beside those that are counted, or made twice."""
    forwards = []
    layer = janus.model.language_model.layers[0]
    handle = layer.register_forward_hook(lambda *_: forwards.append(1))
    draw(sjd2.accelerate(janus, **settings))
    handle.remove()
    stats = sjd2.decoding_stats(janus)
    assert stats.prefill_passes == prefills
    assert len(forwards) == stats.total_forward_passes + prefills


def test_token_by_token_is_the_unit(janus: Any) -> None:
    """Kills: a baseline that is charged its prefill, or credited with drafts."""
    sjd2.accelerate(janus, method="ar")
    draw(janus)
    stats = sjd2.decoding_stats(janus)
    assert stats.forward_passes == (LENGTH,) * 3
    assert stats.step_compression == 1
    assert stats.accepted == 0


def test_stats_print_as_a_table_and_travel_as_json(janus: Any) -> None:
    """Kills: a property left out of `to_dict`; tensors in it."""
    sjd2.accelerate(janus, window=8)
    draw(janus)
    stats = sjd2.decoding_stats(janus)
    assert json.loads(json.dumps(stats.to_dict()))["step_compression"] == stats.step_compression
    assert f"{stats.step_compression:.2f}x" in str(stats)


def test_progress_shows_committed_tokens(
    janus: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: a bar that stops short of the last token, and one that nobody asked for."""
    # A bar is for terminals; tests/test_progress.py has the lines of other places.
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    sjd2.accelerate(janus, window=8, progress=True)
    draw(janus)
    shown = capsys.readouterr().err
    assert f"{3 * LENGTH}/{3 * LENGTH}" in shown
    assert "tokens per forward" in shown
    sjd2.accelerate(janus, window=8)
    draw(janus)
    assert capsys.readouterr().err == ""
