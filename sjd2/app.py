"""`sjd2 app`: a local page to type a caption into and watch it being decoded."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from html import escape
from io import BytesIO
from typing import Any

import gradio as gr
from PIL import Image

from sjd2.companions import find_companions
from sjd2.config import checked_seed
from sjd2.demo import WEIGHTS
from sjd2.demo.captions import COLOUR_NAMES, RELATIONS, SHAPES
from sjd2.models import family_of
from sjd2.pictures.drawing import EXAMPLE, check_captions
from sjd2.pictures.pipeline import Pipeline
from sjd2.ranges import RANGES
from sjd2.sampler.presets import BASELINE, choose_presets
from sjd2.watch import Trace, film, live

HOST = "127.0.0.1"  # this machine only: the page has no authentication
_SIDE = 384  # pixels of a picture on the page, about
_STYLE = """
footer { display: none !important }
.shown img { width: 100%; max-width: 384px }
/* Where the film is wider than the page, it keeps its size, for it has small letters. */
.film { overflow-x: auto }
.film img { max-width: none }
.film p { display: none }
@media (max-width: 780px) { .film p { display: block } }
"""

Shown = tuple[str, str, str]  # picture and heat map as HTML, the counter


class Page:
    """The page and the handlers of its buttons.

    Args:
        pipeline: whose model draws.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.companions = find_companions(pipeline.model, family_of(pipeline.model))
        self.methods = choose_presets(None, self.companions)
        usual = "corrected-gumbel" if "corrected-gumbel" in self.methods else "gumbel"
        self.usual = usual

    def draw(
        self, caption: str, method: str, window: Any, seed: Any, guidance: Any
    ) -> Iterator[tuple[str, ...]]:
        """Picture, heat map and counter while decoding proceeds; what a race has left is cleared.

        Raises:
            gr.Error: an invalid value; the page shows the message.
        """
        try:
            for trace in self._live(caption, method, window, seed, guidance):
                yield (*_shown(caption, trace), "", "", "")
        except (ValueError, TypeError, OSError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    def race(
        self, caption: str, method: str, window: Any, seed: Any, guidance: Any
    ) -> Iterator[tuple[str, ...]]:
        """As `draw`, then ar's picture and counter, then the film of both.

        Raises:
            gr.Error: as `draw`.
        """
        try:
            shown: tuple[str, ...] = ()
            for trace in self._live(caption, method, window, seed, guidance):
                shown = _shown(caption, trace)
                yield (*shown, "", "", "")
            for slow in self._live(caption, BASELINE, window, seed, guidance):
                picture, _, counter = _shown(caption, slow)
                yield (*shown, picture, counter, "")
            yield (*shown, picture, counter, _film(caption, slow, trace))
        except (ValueError, TypeError, OSError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    def _live(
        self, caption: str, method: str, window: Any, seed: Any, guidance: Any
    ) -> Iterator[Trace]:
        """Check every value, then draw."""
        if not caption.strip():
            raise ValueError("caption: must say what to draw")
        check_captions(self.pipeline, [caption])
        RANGES["guidance_scale"].check("guidance", guidance)
        chosen = self.methods[method]
        return live(
            self.pipeline,
            caption,
            checked_seed(seed),
            chosen.method(self.companions, window=window),
            chosen.label,
            guidance_scale=float(guidance),
        )

    def subject(self) -> str:
        """What can be drawn."""
        if getattr(self.pipeline.model, "name_or_path", "") != str(WEIGHTS):
            return "This model draws what the caption says; write it as you would say it."
        return (
            f"The embedded model draws shapes ({', '.join(SHAPES)}) in colours "
            f"({', '.join(COLOUR_NAMES)}) on textured grounds: one to three alike, or two that "
            f"differ, one {', '.join(RELATIONS[:-1])} or {RELATIONS[-1]} the other. For example: "
            f"{EXAMPLE}"
        )

    def does(self, method: str) -> str:
        """What a method does."""
        return f"{self.methods[method].label}: {self.methods[method].does}"

    def blocks(self) -> gr.Blocks:
        """The page itself."""
        guidance = self.pipeline.model.generation_config.guidance_scale or 1.0
        names = [(self.methods[name].label, name) for name in self.methods if name != BASELINE]
        with gr.Blocks(title="sjd2", analytics_enabled=False) as page:
            gr.Markdown("# sjd2: watch a picture being decoded")
            gr.Markdown(self.subject(), elem_id="subject")
            with gr.Row():
                # Wide enough for its longest line; a narrow page puts one below the other.
                caption = gr.Textbox(
                    EXAMPLE, label="caption", scale=3, min_width=340, elem_id="caption"
                )
                method = gr.Dropdown(
                    names, value=self.usual, label="method", min_width=240, elem_id="method"
                )
            does = gr.Markdown(self.does(self.usual), elem_id="does")
            with gr.Row():
                window = gr.Number(32, precision=0, label="window", elem_id="window")
                seed = gr.Number(0, precision=0, label="seed", elem_id="seed")
                scale = gr.Number(guidance, label="guidance", elem_id="guidance")
                draw = gr.Button("Draw", variant="primary", elem_id="draw")
                race = gr.Button("Race with ar", elem_id="race")
            with gr.Row():
                with gr.Column():
                    gr.Markdown("accelerated")
                    picture = _empty("picture")
                    counter = gr.Markdown(elem_id="counter")
                with gr.Column():
                    gr.Markdown("when each token was accepted: dark is early")
                    heat = _empty("heat")
                with gr.Column():
                    gr.Markdown("ar, token by token")
                    slow = _empty("slow")
                    slow_counter = gr.Markdown(elem_id="slow-counter")
            gif = _empty("film", "film")
            inputs = [caption, method, window, seed, scale]
            outputs = [picture, heat, counter, slow, slow_counter, gif]
            # There is one model: a second request waits.
            shared = {"concurrency_limit": 1, "concurrency_id": "model", "show_progress": "hidden"}
            gr.on([draw.click, caption.submit], self.draw, inputs, outputs, **shared)
            race.click(self.race, inputs, outputs, **shared)
            method.change(self.does, method, does, show_progress="hidden")
        return page


def serve(
    pipeline: Pipeline, port: int | None, *, opens_browser: bool, waits: bool = True
) -> tuple[gr.Blocks, str]:
    """Serve the page on this machine.

    Args:
        pipeline: whose model draws.
        port: to listen at; None is a free one.
        opens_browser: whether to open a browser.
        waits: print the address and return when interrupted; otherwise return at once, and the page
            stays until it is closed.

    Returns:
        The page and its address.

    Raises:
        OSError: the port is taken.
    """
    page = Page(pipeline).blocks()
    # No fonts from elsewhere: the page works without a network.
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}
    _, address, _ = page.launch(
        server_name=HOST,
        server_port=port,
        share=False,
        inbrowser=opens_browser,
        prevent_thread_lock=True,
        quiet=True,  # it would advise to share the page with everybody
        theme=gr.themes.Default(**fonts),
        css=_STYLE,
    )
    if waits:
        print(f"{address}  (Ctrl-C ends it)", flush=True)
        page.block_thread()
    return page, address


def _empty(name: str, style: str = "shown") -> gr.HTML:
    """Where a picture will be."""
    return gr.HTML(elem_id=name, elem_classes=style, padding=False)


def _shown(caption: str, trace: Trace) -> Shown:
    now, tokens, total = trace.forwards, trace.committed(trace.forwards), trace.committed_at.size
    counter = (
        f"**{now} forwards** · {tokens} of {total} tokens · {tokens / now:.1f} tokens per forward"
    )
    picture = _html(_large(trace.picture_at(now)), caption)
    heat = _html(_large(trace.heat_map()), f"when each token was accepted: {caption}")
    return picture, heat, counter


def _html(picture: Image.Image, text: str) -> str:
    """A picture in the page itself, with a text for those who do not see it."""
    file = BytesIO()
    picture.save(file, "PNG")
    return _image("png", file, text)


def _film(caption: str, slow: Trace, fast: Trace) -> str:
    file = BytesIO()
    film(caption, slow, fast).write_gif(file)
    text = f"{caption}: {slow.forwards} forwards of ar beside {fast.forwards} of {fast.label}"
    return f"<p>The race is wider than the page: scroll sideways.</p>{_image('gif', file, text)}"


def _image(kind: str, file: BytesIO, text: str) -> str:
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{escape(text)}" src="data:image/{kind};base64,{data}">'


def _large(picture: Image.Image) -> Image.Image:
    factor = max(1, round(_SIDE / max(picture.size)))
    size = (factor * picture.width, factor * picture.height)
    return picture.resize(size, Image.Resampling.NEAREST)
