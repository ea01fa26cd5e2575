"""`sjd2 app`: a local page to type a caption into and watch it being decoded."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from sjd2.companions import find_companions
from sjd2.config import checked_seed
from sjd2.models import family_of
from sjd2.pictures.drawing import EXAMPLE, check_captions
from sjd2.pictures.pipeline import Pipeline
from sjd2.ranges import RANGES
from sjd2.sampler.presets import BASELINE, choose_presets
from sjd2.watch import Trace, film, live

HOST = "127.0.0.1"  # this machine only: the page has no authentication
_SIDE = 384  # pixels of a picture on the page, about
_STYLE = "footer { display: none !important }"

Shown = tuple[Image.Image, Image.Image, str]


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
        self._folder = tempfile.TemporaryDirectory(prefix="sjd2-app-")

    def draw(
        self, caption: str, method: str, window: Any, seed: Any, guidance: Any
    ) -> Iterator[Shown]:
        """Picture, heat map and counter while decoding proceeds.

        Raises:
            gr.Error: an invalid value; the page shows the message.
        """
        try:
            for trace in self._live(caption, method, window, seed, guidance):
                yield _shown(trace)
        except (ValueError, TypeError, OSError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    def race(
        self, caption: str, method: str, window: Any, seed: Any, guidance: Any
    ) -> Iterator[tuple[Any, ...]]:
        """As `draw`, then ar's picture and counter, then the film of both.

        Raises:
            gr.Error: as `draw`.
        """
        try:
            shown: tuple[Any, ...] = ()
            for trace in self._live(caption, method, window, seed, guidance):
                shown = _shown(trace)
                yield (*shown, None, "", None)
            for slow in self._live(caption, BASELINE, window, seed, guidance):
                picture, _, counter = _shown(slow)
                yield (*shown, picture, counter, None)
            path = Path(self._folder.name) / f"{len(list(Path(self._folder.name).iterdir()))}.gif"
            with path.open("wb") as file:
                film(caption, slow, trace).write_gif(file)
            yield (*shown, picture, counter, str(path))
        except (ValueError, TypeError, OSError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    def _live(
        self, caption: str, method: str, window: Any, seed: Any, guidance: Any
    ) -> Iterator[Trace]:
        """Check every value, then draw."""
        if not caption.strip():
            raise ValueError("caption: must say what to draw")
        check_captions(self.pipeline.tokenizer, [caption])
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

    def blocks(self) -> gr.Blocks:
        """The page itself."""
        guidance = self.pipeline.model.generation_config.guidance_scale or 1.0
        names = [(self.methods[name].label, name) for name in self.methods if name != BASELINE]
        with gr.Blocks(title="sjd2", analytics_enabled=False) as page:
            gr.Markdown("# sjd2: watch a picture being decoded")
            with gr.Row():
                caption = gr.Textbox(EXAMPLE, label="caption", scale=4, elem_id="caption")
                method = gr.Dropdown(names, value=self.usual, label="method", elem_id="method")
            with gr.Row():
                window = gr.Number(32, precision=0, label="window", elem_id="window")
                seed = gr.Number(0, precision=0, label="seed", elem_id="seed")
                scale = gr.Number(guidance, label="guidance", elem_id="guidance")
                draw = gr.Button("Draw", variant="primary", elem_id="draw")
                race = gr.Button("Race with ar", elem_id="race")
            with gr.Row():
                with gr.Column():
                    gr.Markdown("accelerated")
                    picture = _image("picture")
                    counter = gr.Markdown(elem_id="counter")
                with gr.Column():
                    gr.Markdown("when each token was accepted: dark is early")
                    heat = _image("heat")
                with gr.Column():
                    gr.Markdown("ar, token by token")
                    slow = _image("slow")
                    slow_counter = gr.Markdown(elem_id="slow-counter")
            gif = gr.Image(
                label="the race", type="filepath", format="gif", interactive=False, elem_id="film"
            )
            inputs = [caption, method, window, seed, scale]
            # There is one model: a second request waits.
            shared = {"concurrency_limit": 1, "concurrency_id": "model", "show_progress": "hidden"}
            draw.click(self.draw, inputs, [picture, heat, counter], **shared)
            outputs = [picture, heat, counter, slow, slow_counter, gif]
            race.click(self.race, inputs, outputs, **shared)
        return page


def serve(
    pipeline: Pipeline, port: int | None, *, opens_browser: bool, waits: bool = True
) -> tuple[gr.Blocks, str]:
    """Serve the page on this machine.

    Args:
        pipeline: whose model draws.
        port: to listen at; None is a free one.
        opens_browser: whether to open a browser.
        waits: return when interrupted; otherwise at once, and the page stays until it is closed.

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
        prevent_thread_lock=not waits,
        quiet=not waits,
        theme=gr.themes.Default(**fonts),
        css=_STYLE,
    )
    return page, address


def _image(name: str) -> gr.Image:
    # Its own label would cover a corner of the picture.
    return gr.Image(
        label=name, show_label=False, type="pil", format="png", interactive=False, elem_id=name
    )


def _shown(trace: Trace) -> Shown:
    now, tokens, total = trace.forwards, trace.committed(trace.forwards), trace.committed_at.size
    counter = (
        f"**{now} forwards** · {tokens} of {total} tokens · {tokens / now:.1f} tokens per forward"
    )
    return _large(trace.picture_at(now)), _large(trace.heat_map()), counter


def _large(picture: Image.Image) -> Image.Image:
    factor = max(1, round(_SIDE / max(picture.size)))
    size = (factor * picture.width, factor * picture.height)
    return picture.resize(size, Image.Resampling.NEAREST)
