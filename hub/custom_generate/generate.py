"""Pictures in several times fewer forwards: `model.generate(..., custom_generate=<this repo>)`."""

from typing import Any

import sjd2


def generate(
    model: Any,
    *args: Any,
    decoding: sjd2.DecodingConfig | None = None,
    custom_generate: Any = None,
    trust_remote_code: Any = None,
    **kwargs: Any,
) -> Any:
    """As `model.generate`; calls that draw no picture are answered by it.

    Args:
        model: one that sjd2 accelerates; nothing stays set on it.
        *args: of `generate`.
        decoding: how to decode; None is `DecodingConfig()`.
        custom_generate: how this function was called; not looked at.
        trust_remote_code: likewise.
        **kwargs: of `generate`, and `seed`.

    Returns:
        What `model.generate` returns.
    """
    with sjd2.accelerated(model, decoding):
        return model.generate(*args, **kwargs)
