"""The page of `sjd2 app` in headless Chromium: what somebody types, runs and sees.

Skipped, and says so, where gradio, playwright or Chromium is missing.
"""

import base64
import re
import shutil
from html import escape
from io import BytesIO

import pytest
import torch

gr = pytest.importorskip("gradio", reason="gradio is not installed: make install")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from PIL import Image  # noqa: E402

from sjd2 import app  # noqa: E402
from sjd2.pictures.drawing import EXAMPLE  # noqa: E402
from sjd2.pictures.loading import load  # noqa: E402
from sjd2.sampler.presets import PRESETS  # noqa: E402
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


def opened(html):
    """The picture in a piece of HTML, and the text that it is given."""
    text, data = re.search(r'<img alt="(.*?)" src="data:image/\w+;base64,(.*?)">', html).groups()
    return Image.open(BytesIO(base64.b64decode(data))), text


def test_the_page_is_for_this_machine_alone():
    """Kills: an address that others can reach."""
    assert app.HOST == "127.0.0.1"


def test_the_counter_and_the_pictures_grow_to_the_end(models):
    """Kills: one look at the end, a counter of something else, and a race of two seeds."""
    page = app.Page(models)
    shown = list(page.draw(*GOOD))
    counters = [re.findall(r"\d+", counter)[:3] for _, _, counter, *_ in shown]
    assert [int(tokens) for _, tokens, _ in counters] == sorted(int(t) for _, t, _ in counters)
    assert counters[-1][1:] == [str(LENGTH), str(LENGTH)]
    *_, raced = page.race(*GOOD)
    picture, heat, counter, slow, slow_counter, gif = raced
    assert picture == slow == shown[-1][0]
    assert opened(heat)[0].size == opened(picture)[0].size
    assert counter == shown[-1][2]
    assert slow_counter.startswith(f"**{LENGTH} forwards**")
    assert opened(gif)[0].n_frames > 10


def test_every_picture_has_a_text_that_names_its_caption(models):
    """Kills: a picture that those who do not see it know nothing of, and a caption that is taken
    for markup.
    """
    *_, (picture, heat, _, slow, _, film) = app.Page(models).race(*GOOD)
    texts = [opened(html)[1] for html in (picture, heat, slow, film)]
    assert texts[0] == texts[2] == RING
    assert all(RING in text for text in texts)
    assert len(set(texts)) == 3
    caption = 'a "red" <ring>'
    assert opened(app._html(Image.new("RGB", (2, 2)), caption))[1] == escape(caption)


def test_drawing_clears_what_a_race_has_left(models):
    """Kills: the film of another caption under a new picture."""
    page = app.Page(models)
    for first in (next(page.draw(*GOOD)), next(page.race(*GOOD))):
        assert first[0]
        assert first[3:] == ("", "", "")


def test_the_page_says_what_can_be_drawn_and_what_methods_do(models):
    """Kills: advice for another model, and a method that is not explained."""
    page = app.Page(models)
    assert "coloured" not in page.subject()
    embedded = app.Page(load("demo", torch.device("cpu")))
    assert EXAMPLE in embedded.subject()
    assert "ring" in embedded.subject()
    for name, preset in embedded.methods.items():
        assert embedded.does(name).startswith(f"{preset.label}: ")
        assert preset.does.endswith(".")
    assert len({preset.does for preset in PRESETS.values()}) == len(PRESETS)


def test_serving_prints_the_address_and_no_advice_to_share(models, capsys):
    """Kills: gradio's own lines, which tell how to open the page to the world."""
    app.gr.Blocks.block_thread, kept = (lambda self: None), app.gr.Blocks.block_thread
    try:
        page, address = app.serve(models, None, opens_browser=False)
    finally:
        app.gr.Blocks.block_thread = kept
    page.close()
    out = capsys.readouterr().out
    assert out.splitlines()[0] == f"{address}  (Ctrl-C ends it)"
    assert "share" not in out


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
    assert page.get_attribute("#picture img", "alt") == "two pink discs"


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


@pytest.mark.slow
def test_enter_draws_and_clears_the_race(page):
    """Kills: a caption that must be confirmed by a click, and a stale film below a new picture."""
    page.click("#race")
    page.wait_for_selector("#film img")
    page.fill("#caption textarea", "a blue square")
    page.press("#caption textarea", "Enter")
    page.wait_for_selector("#picture img[alt='a blue square']")
    page.wait_for_selector("#film img", state="detached")
    assert page.locator("#slow img").count() == 0
    assert page.inner_text("#slow-counter").strip() == ""


@pytest.mark.slow
def test_the_page_explains_the_method_that_is_chosen(page):
    """Kills: a line that stays with the first method."""
    before = page.inner_text("#does")
    page.click("#method input")
    page.click("text=sjd maximal")
    page.wait_for_selector("#does:has-text('sjd maximal')")
    assert page.inner_text("#does") != before
    page.click("#method input")
    page.click("text=sjd gumbel")
    page.wait_for_selector("#does:has-text('sjd gumbel')")


@pytest.mark.slow
def test_a_narrow_page_shows_everything(page):
    """Kills: the method's name cut off, letters of the race too small to be read, and a page that
    is wider than the window.
    """
    before = page.viewport_size
    page.set_viewport_size({"width": 390, "height": 844})
    try:
        page.click("#race")
        page.wait_for_selector("#film img")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        name = page.locator("#method input")
        assert name.evaluate("one => one.scrollWidth <= one.clientWidth")
        # A film in its own size, and a word on how to see the rest of it.
        assert page.locator("#film img").evaluate("one => one.width == one.naturalWidth")
        assert page.locator("#film p").is_visible()
        film = page.locator("#film img")
        film.evaluate("one => one.scrollIntoView({inline: 'end'})")
        assert film.evaluate("one => one.getBoundingClientRect().right") <= 390
    finally:
        page.set_viewport_size(before)
    assert not page.locator("#film p").is_visible()
