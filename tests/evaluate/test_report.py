"""The report: plots that hold what they are given, one file that loads nothing."""

import base64
import re
import shutil
from io import BytesIO
from xml.etree import ElementTree

import pytest
from PIL import Image

from sjd2.evaluate.plots import histogram, line_plot, stacked_bars
from sjd2.evaluate.report import Drawn, as_html, as_markdown
from sjd2.evaluate.summary import wilson

SVG = "{http://www.w3.org/2000/svg}"


def spread(mean):
    return {"mean": mean, "std": 0.5, "p5": 1.0, "p25": 2.0, "p50": 3.0, "p75": 4.0, "p95": 5.0}


def results(**changes):
    row = {
        "method": "maximal",
        "label": "sjd <maximal>",
        "window": 16,
        "guidance": 2.0,
        "temperature": 1.0,
        "exact": True,
        "total_variation": None,
        "forwards": spread(32.0),
        "tokens_per_forward": 8.0,
        "step_compression": 8.0,
        "step_compression_of_pictures": spread(8.5),
        "accept_lengths": {"1": 30, "12": 10},
        "checker": {"passed": 3, "judged": 4, "low": 0.3, "high": 0.95},
        "same_as_ar": None,
        **changes,
    }
    timing = {
        "seconds_per_picture": 0.5,
        "forward_seconds_per_picture": 0.4,
        "rest_seconds_per_picture": 0.1,
        "peak_memory": 3 * 2**20,
    }
    environment = {"device": "CPU", "threads": 1, "torch": "2", "transformers": "5", "dtype": "f"}
    found = {
        "model": "demo",
        "captions": ["a <b>"],
        "seeds": [0],
        "batch": 8,
        "sampling": {"guidance": 2.0, "temperature": 1.0},
        "floor": 0.01,
        "rows": [row],
        "curves": {"guidance": [row, {**row, "guidance": 3.0}], "temperature": []},
    }
    return found, {"environments": [environment], "rows": [timing]}


def test_the_page_loads_nothing_and_shows_every_picture_and_plot(tmp_path):
    """Kills: a script, a font or a picture from elsewhere, text that is taken for markup, and a
    picture or a plot left out.
    """
    path = tmp_path / "a.png"
    Image.new("RGB", (600, 300), "red").save(path)
    page = as_html(*results(), [Drawn("a <b>", [("ar", path), ("sjd <maximal>", path)])])
    assert not re.search(r"<script|<link|href=|url\(|@import|srcset", page)
    sources = re.findall(r'src="(.*?)"', page)
    assert len(sources) == page.count("src=") == 2
    for source in sources:
        # The pictures themselves, small enough for many.
        with Image.open(
            BytesIO(base64.b64decode(source.removeprefix("data:image/webp;base64,")))
        ) as shown:
            assert shown.size == (256, 128)
            assert shown.getpixel((9, 9))[0] > 200
    assert re.findall(r'alt="(.*?)"', page) == [
        "a &lt;b&gt;, by ar",
        "a &lt;b&gt;, by sjd &lt;maximal&gt;",
    ]
    assert page.count("http") == page.count("http://www.w3.org/2000/svg")
    assert "sjd &lt;maximal&gt;" in page
    assert "<maximal>" not in page
    figures = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(figures) == 4  # accept lengths, windows, guidance, seconds
    for figure in figures:
        ElementTree.fromstring(figure)


def test_the_table_leaves_out_what_nothing_is_known_of():
    """Kills: empty columns, and an inexact rule that is not called one."""
    plain = as_markdown(*results())
    assert "| method | window | forwards |" in plain
    assert "8.00x" in plain
    assert "75.0% (30% to 95%)" in plain
    assert "80%" in plain
    assert "3 MiB" in plain
    assert not re.search("exact|variation|FID|CLIP|as ar", plain.split("\n\n")[1])
    biased = as_markdown(*results(exact=False, total_variation=0.25, fid=3.0))
    assert "| **no** | 0.250 |" in biased
    assert "shows 0.010 by chance" in biased
    assert "| 3.00 |" in biased
    assert "<b>no</b>" in as_html(*results(exact=False))


def test_every_column_that_needs_it_is_explained_and_the_sameness_stands_in_front():
    """Kills: a column behind the edge of a window, and one that nobody understands."""
    table = as_markdown(*results(same_as_ar={"same": 3, "of": 4}))
    head, notes = table.split("\n\n")[1].splitlines()[0], table.split("\n\n", 2)[2]
    assert head.split(" | ").index("pictures as ar's") == 4
    assert "| 3 of 4 |" in table
    for named in ("Pictures as ar's", "As captioned", "Peak memory", "in forwards"):
        assert named in notes


@pytest.mark.slow
def test_the_sameness_is_seen_at_1280_pixels(tmp_path):
    """Kills: a column that the window cuts off, and a page that is wider than the window."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    full = {
        "same_as_ar": {"same": 3, "of": 4},
        "total_variation": 0.01,
        "fid": 123.45,
        "clip_score": 31.5,
        "label": "corrected maximal, uniform starts, 4 passes",
    }
    (tmp_path / "report.html").write_text(as_html(*results(**full)))
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto((tmp_path / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280
        for text in ("pictures as ar's", "3 of 4"):
            cell = page.locator("th, td", has_text=text).first
            assert cell.evaluate("one => one.getBoundingClientRect().right") <= 1280
        browser.close()


def test_bars_are_as_high_as_their_values():
    """Kills: bars from the top, heights by another axis, and stacks that overlap."""
    tree = ElementTree.fromstring(stacked_bars({"a": {"x": 1.0, "y": 3.0}}, "s"))
    *_, low, high = tree.findall(f"{SVG}rect")
    low, high = ({k: float(v) for k, v in r.attrib.items() if k != "fill"} for r in (low, high))
    assert high["height"] == pytest.approx(3 * low["height"], abs=0.3)
    assert high["y"] + high["height"] == pytest.approx(low["y"], abs=0.2)


def test_lines_and_histograms_hold_every_value():
    """Kills: a point or a bar left out, and names that get lost."""
    lines = ElementTree.fromstring(line_plot({"m": [(8, 2.0), (16, 4.0)], "n": [(8, 1)]}, "W", "c"))
    circles = lines.findall(f"{SVG}circle")
    assert len(circles) == 3
    first, second, _ = (float(circle.attrib["cy"]) for circle in circles)
    assert second < first
    bars = ElementTree.fromstring(histogram({"m": {1: 0.5, 9: 0.5}}, "length", "share"))
    assert len(bars.findall(f"{SVG}rect")) == 2 + 1  # and one key of the legend
    assert any(text.text == "m" for text in bars.findall(f"{SVG}text"))


def test_one_value_alone_can_be_plotted():
    """Kills: a division by the width of nothing."""
    ElementTree.fromstring(line_plot({"m": [(8, 2.0)]}, "W", "c"))
    ElementTree.fromstring(stacked_bars({"a": {"x": 0.0}}, "s"))


def test_wilson_is_the_published_interval():
    """Kills: the normal approximation, which is empty at 0 of 10."""
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-3)
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-3)
