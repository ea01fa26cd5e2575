"""The page of `sjd2 app` in headless Chromium: what somebody types, runs and sees.

Skipped, and says so, where gradio, playwright or Chromium is missing.
"""

import re
import shutil

import pytest
import torch

gr = pytest.importorskip("gradio", reason="gradio is not installed: make install")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from PIL import Image  # noqa: E402

from sjd2 import app  # noqa: E402
from sjd2.pictures.loading import load  # noqa: E402
from tests.cli.requests import RING  # noqa: E402
from tests.janus_model import LENGTH  # noqa: E402

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
PATIENCE = 240_000  # milliseconds; a busy machine is no failure
GOOD = (RING, "gumbel", 8, 3, 2.0)


@pytest.fixture(scope="module")
def models(folder):
    """A tiny random Janus and its processor."""
    return load(str(folder), torch.device("cpu"))


@pytest.fixture(scope="module")
def page(models):
    """The page, open in a browser."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    blocks, address = app.serve(models, None, opens_browser=False, waits=False)
    with sync_api.sync_playwright() as playwright:
        # Tests run as root in containers, where Chromium's sandbox cannot.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        page.wait_for_selector("#caption textarea")
        yield page
        browser.close()
    blocks.close()


def test_the_page_is_for_this_machine_alone():
    """Kills: an address that others can reach."""
    assert app.HOST == "127.0.0.1"


def test_the_counter_and_the_pictures_grow_to_the_end(models):
    """Kills: one look at the end, a counter of something else, and a race of two seeds."""
    page = app.Page(models)
    shown = list(page.draw(*GOOD))
    counters = [re.findall(r"\d+", counter)[:3] for _, _, counter in shown]
    assert [int(tokens) for _, tokens, _ in counters] == sorted(int(t) for _, t, _ in counters)
    assert counters[-1][1:] == [str(LENGTH), str(LENGTH)]
    *_, raced = page.race(*GOOD)
    picture, heat, counter, slow, slow_counter, gif = raced
    assert picture.tobytes() == slow.tobytes() == shown[-1][0].tobytes()
    assert heat.size == picture.size
    assert counter == shown[-1][2]
    assert slow_counter.startswith(f"**{LENGTH} forwards**")
    with Image.open(gif) as film:
        assert film.n_frames > 10


@pytest.mark.parametrize(
    ("number", "value", "message"),
    [
        (0, " ", "caption: must say what to draw"),
        (0, "a red zeppelin", "zeppelin"),
        (2, 1, "window=1: must be"),
        (2, None, "window=None: must be"),
        (3, -1, "seed=-1: must be"),
        (3, None, "seed=None: must be"),
        (4, 0.5, "guidance=0.5: must be a number of at least 1"),
        (4, None, "guidance=None: must be"),
    ],
)
def test_bad_values_are_refused_before_any_forward(models, number, value, message):
    """Kills: a check that is missing, and an error that the page shows as a trace."""
    inputs = list(GOOD)
    inputs[number] = value
    for answer in (app.Page(models).draw, app.Page(models).race):
        with pytest.raises(gr.Error, match=re.escape(message)):
            next(answer(*inputs))


@pytest.mark.slow
def test_somebody_types_a_caption_and_sees_picture_and_counter(page):
    """Kills: inputs in another order, outputs that go nowhere, and a page that needs a network."""
    page.fill("#caption textarea", "two pink discs")
    page.fill("#window input", "8")
    page.click("#draw")
    page.wait_for_selector(f"#counter:has-text('{LENGTH} of {LENGTH} tokens')")
    for name in ("picture", "heat"):
        page.wait_for_selector(f"#{name} img")
    assert "forwards" in page.inner_text("#counter")
    assert page.locator("#slow img").count() == 0


@pytest.mark.slow
def test_a_bad_value_gives_a_message_and_the_page_goes_on(page):
    """Kills: a trace on the page, a generic "Error", and a page that is dead afterwards."""
    page.fill("#guidance input", "0.5")
    page.click("#draw")
    page.wait_for_selector("text=must be a number of at least 1")
    assert "Traceback" not in page.content()
    page.fill("#guidance input", "2")
    page.fill("#window input", "9")
    page.click("#race")
    page.wait_for_selector("#film img")
    assert page.inner_text("#slow-counter").startswith(f"{LENGTH} forwards")
