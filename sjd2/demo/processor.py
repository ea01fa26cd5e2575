"""The processor of the embedded model: Janus' own, which refuses what the model was not taught."""

from collections.abc import Iterable
from typing import Any

from transformers import BatchFeature, JanusProcessor

from sjd2.demo.captions import parse_caption


class CaptionProcessor(JanusProcessor):
    """A `JanusProcessor` for captions of the grammar in `sjd2.demo.captions`, and no others.

    A tokenizer of words reads any text, with "unknown" for what it does not know; the model would
    draw something, and nothing would say that it was not what was asked for.
    """

    def __call__(self, text: Any = None, images: Any = None, **kwargs: Any) -> BatchFeature:
        """See `JanusProcessor`.

        Raises:
            ValueError: an empty list, or a caption that is no sentence of the grammar; the message
                ends with the nearest one that is.
        """
        if text is not None:
            self.check_captions([text] if isinstance(text, str) else text)
        return super().__call__(text=text, images=images, **kwargs)

    def check_captions(self, captions: Iterable[str]) -> None:
        """Refuse captions that the model was not taught.

        Raises:
            ValueError: as `__call__`.
        """
        captions = list(captions)
        if not captions:
            raise ValueError("text: must be a caption or several, not an empty list")
        for caption in captions:
            parse_caption(caption)
