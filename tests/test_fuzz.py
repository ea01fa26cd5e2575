"""Generated bad calls of every public function: each raises an error that names what is wrong."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sjd2
from sjd2 import DecodingConfig
from tests.cli.test_fuzz import hurried
from tests.janus_model import draw

COUNTS: list[Any] = [0, -1, 1.5, "x", None, True]
# By option of DecodingConfig: bad values.
OPTIONS: dict[str, list[Any]] = {
    "method": ["x", None, 3, ["sjd"]],
    "window": [0, 1, -3, 2.5, "x", None, True, [8]],
    "verify": ["x", None, 1],
    "coupling": ["x", None],
    "start": ["x", None, 0],
    "denoising_steps": COUNTS,
    "schedule": ["x", None],
    "corrector_passes": [0, -1, 1.5, "x", None, True],
    "exact": ["yes", 1, None],
    "backend": ["x", None, "cuda"],
    "seed": [-1, 1.5, "x", 2**63, True, [0, -1], ["a"], "12"],
    "progress": [1, "yes", None],
    "trace": [1, "yes", None],
    "windw": [8],
}
PLACES: list[Any] = ["nowhere", 3, [], object()]
# Of `generate`, beside what a call needs.
SAMPLING: dict[str, list[Any]] = {
    "seed": [-1, 1.5, "x", 2**63, [0], [0, 1, 2, 3], [0, 1, -1], True],
    "guidance_scale": [0.5, -1.0, float("nan"), float("inf"), "x"],
    "temperature": [0.0, -1.0, float("nan"), "x"],
    "top_k": [-1, 2.5, "x"],
    "top_p": [0.0, 1.5, -0.1, "x"],
    "num_return_sequences": [0, -1, 1.5, "x"],
    "windw": [8],
    "min_length": [900],
}


Call = tuple[str, str, Callable[..., Any]]


def chosen(values: dict[str, list[Any]]) -> Iterator[tuple[str, Any]]:
    for name, bad in values.items():
        for value in bad:
            yield name, value


def calls() -> list[Call]:
    """Bad calls: what is done, what the message must name, and the call itself."""
    made: list[Call] = []

    def add(what: str, named: str, call: Callable[..., Any]) -> None:
        made.append((what, named, call))

    for name, value in chosen(OPTIONS):
        one = {name: value}
        add(f"DecodingConfig({one})", name, lambda model, one=one: DecodingConfig(**one))
        add(f"accelerate({one})", name, lambda model, one=one: sjd2.accelerate(model, **one))
        add(f"accelerated({one})", name, lambda model, one=one: entered(model, one))
    for kind in ("adapter", "corrector"):
        for place in [*PLACES, nn.Linear(2, 2)]:
            one = {kind: place}
            add(f"accelerate({one})", kind, lambda model, one=one: sjd2.accelerate(model, **one))
            add(f"accelerated({one})", kind, lambda model, one=one: entered(model, one))
    for name, value in chosen(SAMPLING):
        one = {name: value}
        add(f"generate({one})", name, lambda model, one=one: draw(sjd2.accelerate(model), **one))
    for model in (None, "demo", 3, nn.Linear(2, 2)):
        kind = type(model).__name__
        for function in (
            sjd2.accelerate,
            sjd2.restore,
            sjd2.decoding_stats,
            sjd2.new_adapter,
            sjd2.new_corrector,
            lambda model: entered(model, {}),
        ):
            if function is sjd2.restore and isinstance(model, nn.Module):
                continue  # there is nothing to take off
            is_asked = function is sjd2.decoding_stats and isinstance(model, nn.Module)
            named = "not accelerated" if is_asked else kind
            add(f"{function}({kind})", named, lambda _, f=function, m=model: f(m))
    add("decoding_stats", "accelerate", lambda model: sjd2.decoding_stats(sjd2.restore(model)))
    add("decoding_stats", "drawn no", lambda model: sjd2.decoding_stats(sjd2.accelerate(model)))
    add("config", "config", lambda model: sjd2.accelerate(model, {"window": 8}))
    for rank in (-1, 1.5, "x", None, True):
        add(f"new_adapter({rank})", "rank", lambda m, rank=rank: sjd2.new_adapter(m, rank))
        add(f"new_corrector({rank})", "rank", lambda m, rank=rank: sjd2.new_corrector(m, rank))
    add("new_corrector(0)", "rank", lambda model: sjd2.new_corrector(model, 0))
    for place in (*PLACES, None, b"\0"):
        for name in ("load_adapter", "load_corrector", "load_vq_decoder"):
            add(f"{name}({place!r})", "", lambda _, n=name, p=place: getattr(sjd2, n)(p))
    for name in ("save_adapter", "save_corrector"):
        for thing in (None, "x", nn.Linear(2, 2)):
            named = type(thing).__name__
            add(f"{name}({named})", named, lambda _, n=name, t=thing: getattr(sjd2, n)(t, "a"))
    add("save_adapter", "NoneType", lambda m: sjd2.save_adapter(sjd2.new_adapter(m, 2), None))
    add("save", "corrector", lambda m: sjd2.save_corrector(sjd2.new_adapter(m, 2), "a"))
    for device in ("nowhere", "/nope", "cuda:99", 3.5):
        add(f"demo.load({device!r})", "device", lambda _, d=device: sjd2.demo.load(d))
    for folder in ("nowhere", 3, None):
        add("demo.load", "", lambda _, f=folder: sjd2.demo.load(folder=f))
    for family in (None, "x", 3, (int, str)):
        add("register_family", "", lambda _, f=family: sjd2.register_family(f, f))
    add("sjd2.acelerate", "no attribute", lambda _: sjd2.acelerate)
    return made


def entered(model: Any, options: dict[str, Any]) -> None:
    with sjd2.accelerated(model, **options):
        pass


def test_a_bad_call_raises_an_error_that_names_the_argument(janus, tmp_path, monkeypatch):
    """Kills: a check that is missing, an error from deep inside, and a model left changed."""
    monkeypatch.chdir(tmp_path)
    every, wrong = calls(), []
    random.Random(23).shuffle(every)  # what one call leaves behind, any other may meet
    assert len(every) > 200
    torch.manual_seed(0)
    before = draw(sjd2.restore(janus))
    for what, named, call in every:
        model = sjd2.restore(janus)
        try:
            with hurried():
                call(model)
        except (ValueError, TypeError, FileNotFoundError, AttributeError) as error:
            if named not in str(error):
                wrong.append(f"{what}: does not say {named!r}: {type(error).__name__}: {error}")
            elif isinstance(error, AttributeError) and named != "no attribute":
                wrong.append(f"{what}: {error!r}")
        except Exception as error:
            wrong.append(f"{what}: {error!r}")
        else:
            wrong.append(f"{what}: accepted")
    assert not wrong, "\n".join(wrong)
    assert not list(Path().iterdir())
    torch.manual_seed(0)
    assert torch.equal(draw(sjd2.restore(janus)), before)
