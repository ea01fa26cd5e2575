"""`sjd2 evaluate`: the numbers of the sampler, whole or in pieces, and what it refuses."""

import json
import mmap
import re

import pytest
import torch
from PIL import Image

import sjd2
from sjd2.cli import common
from sjd2.evaluate import measure
from sjd2.pictures.drawing import draw
from sjd2.pictures.loading import load
from sjd2.sampler import resolve
from tests.cli.requests import DISCS, RING, everything_in, one_line
from tests.janus_model import LENGTH

FEW = "--methods ar,gumbel,maximal --windows 8 --batch 1 --guidances none --temperatures none"


@pytest.fixture
def evaluate(run, tmp_path):
    """Evaluate two captions: status, stdout, stderr."""
    (tmp_path / "captions.txt").write_text(f"{RING}\n\n{DISCS}\n")

    def evaluate(*more, out="report"):
        return run("evaluate", "--prompts", "captions.txt", "--out", out, *FEW.split(), *more)

    return evaluate


def test_the_numbers_are_those_of_decoding_stats(evaluate, folder, tmp_path):
    """Kills: a mean in the place of the average picture, a batch counted twice or left out,
    another seed, guidance or window than was asked for.
    """
    status, out, _ = evaluate("--seeds", "2", "--seed", "5", "--guidance", "3", "--json")
    printed = json.loads(out)
    assert status == 0
    pipeline = load(str(folder), torch.device("cpu"))
    for row in printed["rows"]:
        options = {
            "ar": {"method": "ar"},
            "gumbel": {"verify": "gumbel", "window": 8},
            "maximal": {"window": 8},
        }[row["method"]]
        config = sjd2.DecodingConfig(**options)
        drawing = draw(pipeline, [RING, DISCS], [5, 6], resolve(config), guidance_scale=3.0)
        stats = drawing.stats
        assert row["step_compression"] == pytest.approx(stats.step_compression)
        assert row["tokens_per_forward"] == pytest.approx(stats.tokens_per_forward)
        assert row["forwards"]["mean"] == pytest.approx(sum(stats.forward_passes) / 4)
        compressions = sorted(LENGTH / forwards for forwards in stats.forward_passes)
        assert row["step_compression_of_pictures"]["mean"] == pytest.approx(sum(compressions) / 4)
        lengths = [length for picture in stats.accept_lengths for length in picture]
        assert row["accept_lengths"] == {str(n): lengths.count(n) for n in sorted(set(lengths))}
        assert row["checker"] is None
    same = {row["method"]: row["same_as_ar"] for row in printed["rows"]}
    assert same == {"ar": None, "gumbel": {"same": 4, "of": 4}, "maximal": None}
    for timing in printed["timings"]["rows"]:
        assert 0 < timing["forward_seconds_per_picture"] < timing["seconds_per_picture"]
    assert len(list((tmp_path / "report" / "pictures").rglob("*.png"))) == 3 * 4


@pytest.mark.parametrize("calls", [0, 1, 4])
def test_a_stopped_run_ends_with_the_same_results(evaluate, tmp_path, calls, monkeypatch):
    """Kills: an account without its pictures, a call drawn twice or never, and seconds among the
    results.
    """
    made = []

    def stopping(*arguments, **options):
        if len(made) > calls:  # the first picture warms up
            raise KeyboardInterrupt
        made.append(arguments)
        return draw(*arguments, **options)

    monkeypatch.setattr(measure, "draw", stopping)
    assert evaluate()[0] == 130
    assert not (tmp_path / "report" / "results.json").exists()
    assert len(list((tmp_path / "report" / "parts").iterdir())) == calls
    made.clear()
    counting = lambda *arguments, **options: made.append(1) or draw(*arguments, **options)  # noqa: E731
    monkeypatch.setattr(measure, "draw", counting)
    assert evaluate()[0] == 0
    assert len(made) == 6 - calls + 1
    if calls == 1:
        assert evaluate(out="whole")[0] == 0
        stopped, whole = (tmp_path / name / "results.json" for name in ("report", "whole"))
        assert stopped.read_bytes() == whole.read_bytes()
        drawn = [p for p in everything_in(tmp_path / "whole") if p.endswith(".png")]
        for name in drawn:
            pair = (Image.open(tmp_path / out / name) for out in ("whole", "report"))
            assert len({picture.tobytes() for picture in pair}) == 1


def test_a_finished_run_is_not_drawn_again_and_another_one_is_refused(
    evaluate, tmp_path, monkeypatch
):
    """Kills: a report replaced by one of other settings, and accounts taken for those of another
    seed, guidance or set of captions.
    """
    assert evaluate("-q") == (0, "report/report.html\n", "")
    monkeypatch.setattr(measure, "draw", lambda *_, **__: pytest.fail("drawn again"))
    assert evaluate()[0] == 0
    for name, *other in (
        ["seeds", "--seed", "1"],
        ["guidance", "--guidance", "2.5"],
        ["sampling", "--top-k", "7"],
        ["windows", "--windows", "9"],
    ):
        # A report is not replaced by another one unasked,
        assert one_line(evaluate(*other), f"report: holds a report with other {name};")
        # nor is what it is made of.
        (tmp_path / "report" / "settings.json").rename(tmp_path / "kept.json")
        with pytest.raises(pytest.fail.Exception):
            evaluate(*other)
        (tmp_path / "kept.json").rename(tmp_path / "report" / "settings.json")
    assert one_line(evaluate("--captions", "1"), "report: holds a report with other captions;")


def test_the_report_shows_the_table_that_is_printed(evaluate, tmp_path):
    """Kills: a row missing from one of the files, and a curve that is measured and not shown."""
    status, out, _ = evaluate("--guidances", "3")
    assert status == 0
    page = (tmp_path / "report" / "report.html").read_text()
    table = (tmp_path / "report" / "results.md").read_text()
    for line in out.splitlines()[2:5]:
        cells = re.split(r"\s{2,}", line)
        assert all(f"<td>{cell}</td>" in page for cell in cells)
        assert all(cell in table for cell in cells)
    assert page.count("<svg") == 4
    # Both captions, and ar, gumbel and maximal side by side.
    assert re.findall(r'alt="(.*?)"', page) == [
        f"{caption}, by {label}"
        for caption in (RING, DISCS)
        for label in ("ar", "sjd gumbel", "sjd maximal")
    ]
    curve = json.loads((tmp_path / "report" / "results.json").read_text())["curves"]["guidance"]
    assert [point["guidance"] for point in curve] == [2.0, 3.0] * 2
    assert all(point["step_compression"] > 1 for point in curve)


def test_a_damaged_account_is_drawn_again(evaluate, tmp_path):
    """Kills: a traceback where half a file was left."""
    assert evaluate()[0] == 0
    whole = (tmp_path / "report" / "results.json").read_bytes()
    part = next((tmp_path / "report" / "parts").iterdir())
    part.write_text('{"tokens": ')
    next((tmp_path / "report" / "pictures").rglob("*.png")).unlink()
    assert evaluate()[0] == 0
    assert (tmp_path / "report" / "results.json").read_bytes() == whole


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--methods", "ar,maximall"], "did you mean 'maximal'?"),
        (["--windows", "16,1"], "'1': must be auto or an integer of at least 2"),
        (["--guidances", "0.5"], "'0.5': must be a number of at least 1"),
        (["--temperatures", "x"], "'x': must be a number above 0"),
        (["--seeds", "0"], "'0': must be an integer of at least 1"),
        (["--prompts", "nowhere.txt"], "nowhere.txt: cannot be read"),
        (["--prompts", "empty.txt"], "empty.txt: holds no caption"),
        (["--fid-reference", "."], "FID needs both"),
        (["--out", "empty.txt/x"], "cannot be written"),
    ],
)
def test_a_bad_request_is_refused_before_a_model_is_loaded(
    run, tmp_path, monkeypatch, arguments, fragment
):
    """Kills: any one of the checks, and a check after loading."""
    monkeypatch.setattr(common, "load", lambda *_: pytest.fail("a model was loaded"))
    (tmp_path / "empty.txt").write_text("\n")
    assert one_line(run("evaluate", "--out", "report", *arguments), fragment)
    assert everything_in(tmp_path) == ["empty.txt"]


def test_a_method_without_its_corrector_is_refused(evaluate):
    """Kills: measuring a corrected method without a corrector."""
    assert one_line(evaluate("--methods", "corrected"), "the model has no corrector")
    assert one_line(evaluate("--clip", "nowhere"), "nowhere: no folder of a CLIP model")


def test_peak_memory_sees_what_was_held_since_the_reset():
    """Kills: a peak of the whole process's life, and pages taken for bytes."""
    from sjd2.evaluate.meters import peak_memory, reset_peak_memory

    cpu = torch.device("cpu")
    reset_peak_memory(cpu)
    before = peak_memory(cpu)
    if before is None:
        pytest.skip("nothing tells here")
    # Of the system, for an allocator may have that much left from what others gave back.
    held = mmap.mmap(-1, 40 * 2**20)
    held.write(b"\1" * len(held))
    grown = peak_memory(cpu) - before
    held.close()
    assert 30 * 2**20 < grown < 120 * 2**20
