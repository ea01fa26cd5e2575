"""The training recipe in miniature: it resumes without loss, and feeds what generate will feed."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import JanusForConditionalGeneration

from sjd2.checkpoint import keyed_generator, load_state, save_state
from sjd2.demo.build import WIDTH, build_model, build_processor
from sjd2.demo.captions import COLOUR_NAMES, SHAPES, VOCABULARY
from sjd2.demo.codebook import GROUND, kinds
from sjd2.demo.lm import LMSettings, picture_states, surprises, unconditional
from sjd2.demo.scenes import Thing, sample_scene
from sjd2.demo.shards import Shards
from sjd2.demo.tokens import coming_objects
from sjd2.demo.train import Settings, main, train
from sjd2.demo.vq import VQSettings

CPU = torch.device("cpu")
TINY = Settings(
    scenes=12,
    validation=4,
    measured=4,
    captions_per_form=0,
    sampling=((2.0, 0),),
    vq=VQSettings(scenes=128, steps=4, batch=8, warm_up=1, checkpoint_every=2),
    lm=LMSettings(
        steps=5,
        batch=4,
        compiled=False,
        warm_up=1,
        checkpoint_every=2,
        record_every=2,
        validate_every=3,
    ),
)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    assert train(out, TINY, CPU)
    return out


@pytest.fixture(scope="module")
def fresh() -> JanusForConditionalGeneration:
    return build_model(build_processor(VOCABULARY).tokenizer, seed=0)


def _same_result(one: Path, other: Path) -> None:
    mine, theirs = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
    for key in ("training", "validation"):
        curves = [
            json.loads((folder / "metrics.json").read_text())["language_model"][key]
            for folder in (one, other)
        ]
        assert curves[0] == curves[1]


@pytest.mark.slow
def test_stopped_after_every_step_it_ends_the_same(uninterrupted: Path, tmp_path: Path) -> None:
    runs = 0
    while not train(tmp_path, TINY, CPU, resume=True, out_of_time=lambda: True):
        runs += 1
        assert runs < 20
    assert runs >= 7
    _same_result(uninterrupted, tmp_path)


KILLED = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, {tests!r})
from test_train import TINY
from sjd2.demo.train import train
train(Path({out!r}), TINY, torch.device("cpu"), resume=True)
"""


def test_killed_in_the_language_model_it_ends_the_same(uninterrupted: Path, tmp_path: Path) -> None:
    code = KILLED.format(tests=str(Path(__file__).parent), out=str(tmp_path))
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "checkpoints" / "lm.pt").exists():
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "metrics.json").exists()
    assert train(tmp_path, TINY, CPU, resume=True)
    _same_result(uninterrupted, tmp_path)


def test_result_holds_what_load_and_metrics_promise(uninterrupted: Path) -> None:
    from sjd2.demo import load

    model, processor = load(folder=uninterrupted)
    metrics = json.loads((uninterrupted / "metrics.json").read_text())
    assert {"l1", "psnr", "perplexity"} <= metrics["tokenizer"].keys()
    assert [step for step, *_ in metrics["language_model"]["validation"]] == [3, 5]
    assert metrics["checker"]["guidance"] == 2.0
    assert metrics["parameters"] == sum(p.numel() for p in model.parameters())
    assert metrics["settings"]["lm"]["steps"] == 5
    assert processor.tokenizer.boi_token == "<begin_of_image>"


def test_a_second_run_does_not_overwrite_the_first(uninterrupted: Path) -> None:
    with pytest.raises(ValueError, match="holds checkpoints"):
        train(uninterrupted, TINY, CPU)
    with pytest.raises(ValueError, match="other settings: scenes"):
        train(uninterrupted, replace(TINY, scenes=13), CPU, resume=True)


def test_command_line_reports_time_up_and_refusal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The codes of a few scenes: how good they are does not matter here.
    recipe = sys.modules[train.__module__]
    make = recipe.make_codebook
    monkeypatch.setattr(recipe, "make_codebook", lambda kept, _, *rest: make(kept, 64, *rest))
    arguments = ["--out", str(tmp_path), "--device", "cpu", "--minutes", "0", "--vq-steps", "2"]
    assert main(arguments) == 3
    assert "--resume" in capsys.readouterr().out
    assert main(arguments) == 2
    assert "holds checkpoints" in capsys.readouterr().err


def test_unconditional_rows_are_those_of_stock_generate(
    fresh: JanusForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = build_processor(VOCABULARY)
    inputs = processor(
        text=["a red circle", "a small red circle on gravel"],
        generation_mode="image",
        padding=True,
        return_tensors="pt",
    )
    fed: list[torch.Tensor] = []

    def stop(ids: torch.Tensor) -> torch.Tensor:
        fed.append(ids.clone())
        raise InterruptedError

    monkeypatch.setattr(fresh, "get_input_embeddings", lambda: stop)
    with pytest.raises(InterruptedError):
        fresh.generate(**inputs, generation_mode="image", do_sample=True, guidance_scale=2.0)
    tokenizer = processor.tokenizer
    special = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.boi_token_id)
    ids = inputs["input_ids"]
    assert torch.equal(fed[0], torch.cat([ids, unconditional(ids, *special)]))


def test_training_states_are_those_of_generation(fresh: JanusForConditionalGeneration) -> None:
    """Left padding of training prompts changes nothing: the states match those without it."""
    processor = build_processor(VOCABULARY)
    text = "a red circle" + processor.tokenizer.boi_token
    short = processor.tokenizer(text, return_tensors="pt")
    padded = processor.tokenizer(text, padding="max_length", max_length=20, return_tensors="pt")
    codes = torch.randint(512, (1, 576), generator=keyed_generator(0, "test"))
    with torch.no_grad():
        one = picture_states(fresh, short["input_ids"], short["attention_mask"], codes)
        two = picture_states(fresh, padded["input_ids"], padded["attention_mask"], codes)
    assert one.shape == (1, 576, WIDTH)
    torch.testing.assert_close(one, two, atol=2e-5, rtol=1e-4)


def test_rates_rise_stay_and_fall() -> None:
    settings = LMSettings(steps=10, warm_up=2, falling=0.5)
    shares = [settings.share_of_rates(step) for step in range(10)]
    assert shares == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


def test_both_parts_of_a_surprise_add_up_to_it() -> None:
    """Kills: a kind's probability taken as that of its best code; kinds of other codes."""
    codes = torch.randint(512, (2, 576), generator=keyed_generator(0, "codes"))
    logits = 3 * torch.randn(2, 576, 512, generator=keyed_generator(0, "logits"))
    kind, code = surprises(logits, codes)
    whole = F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none")
    torch.testing.assert_close(kind + code, whole.view(2, 576))
    mates = kinds()[codes][..., None] == kinds()
    share = (logits.softmax(-1) * mates).sum(-1)
    torch.testing.assert_close(kind, -share.log())


def test_coming_object_is_the_next_in_reading_order() -> None:
    """Kills: naming the object to come after its own tokens, or ground that never ends."""
    things = (Thing("red", "circle", 16, 16, 10), Thing("blue", "ring", 48, 40, 10))
    scene = replace(sample_scene(0, "train"), things=things)
    codes = torch.zeros(24, 24, dtype=torch.long)
    codes[3, 3:6] = GROUND  # the first code of an object
    codes[8, 10:12] = GROUND
    coming = coming_objects(scene, codes.flatten()).view(24, 24)
    red, blue = 1, 1 + 5 * COLOUR_NAMES.index("blue") + SHAPES.index("ring")
    assert coming[:3].unique().tolist() == [red]
    assert coming[3].tolist() == [red] * 6 + [blue] * 18
    assert coming[8].tolist() == [blue] * 12 + [0] * 12
    assert coming[9:].unique().tolist() == [0]


def test_shards_give_the_gradient_of_the_whole_batch() -> None:
    weight = torch.nn.Parameter(torch.randn(3, generator=keyed_generator(0, "weight")))
    unused = torch.nn.Parameter(torch.ones(2))
    x = torch.randn(21, 3, generator=keyed_generator(0, "x"))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    with Shards(CPU, workers=2) as shards:
        assert shards.count == 2
        assert torch.get_num_threads() == 1
        shards.backward(lambda _, part: (part[0] @ weight).tanh().mean(), [x], [weight, unused])
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    (expected,) = torch.autograd.grad((x @ weight).tanh().mean(), [weight])
    torch.testing.assert_close(weight.grad, expected)
    assert unused.grad is None


def test_keyed_generator_depends_on_every_part_of_its_key() -> None:
    keys = [(0, "order", 1), (0, "order", 2), (0, "blank", 1), (1, "order", 1)]
    draws = {float(torch.rand((), generator=keyed_generator(*key))) for key in keys}
    assert len(draws) == 4
    again = [torch.rand(3, generator=keyed_generator(0, "order", 1)) for _ in range(2)]
    assert torch.equal(*again)


def test_checkpoints_refuse_code_and_damage(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.mkdir, (str(tmp_path / "executed"),))

    path = tmp_path / "x.pt"
    assert load_state(path) is None
    path.write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(ValueError, match=r"x\.pt: not a readable checkpoint"):
        load_state(path)
    torch.save({"x": Harmful()}, path)
    with pytest.raises(ValueError, match=r"x\.pt: not a readable checkpoint"):
        load_state(path)
    assert not (tmp_path / "executed").exists()
    save_state(path, {"x": torch.ones(3), "step": 4})
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"x\.pt: not a readable checkpoint"):
        load_state(path)
    assert not list(tmp_path.glob("*.part"))
