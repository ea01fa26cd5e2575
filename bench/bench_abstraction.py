"""What the library costs beside the model: share of an iteration that is not its forward.

Random models of two shapes draw pictures of 16384 codes on the CPU, in windows of 32; the time
spent in the family's `hidden` and `logits` is the model's, the rest is the library's.

    python bench/bench_abstraction.py [--shape 110m] [--tokens 64] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import transformers
from roofline import MODELS, Decoder
from transformers import JanusConfig, JanusForConditionalGeneration

import sjd2
from sjd2.companions import Companions
from sjd2.models import family_of
from sjd2.sampler import decode, resolve
from sjd2.sampler.watchers import Iteration, OnIteration

CODES, WINDOW = 16384, 32
SHAPES = {
    "110m": Decoder(768, 3072, 12, 12, 12, codes=CODES, tokens=576, head_size=64),
    "janus-pro-1b": MODELS["janus-pro-1b"],
}


def build(shape: Decoder) -> JanusForConditionalGeneration:
    """A Janus with random weights: decoder, codebook and head of a shape, the rest tiny."""
    hidden = shape.hidden
    torch.manual_seed(0)
    config = JanusConfig(
        text_config={
            "vocab_size": 1000,
            "hidden_size": hidden,
            "intermediate_size": shape.inner,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.cached_heads,
            "head_dim": shape.head_size,
            "max_position_embeddings": 2048,
        },
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 384,
            "patch_size": 16,
            "num_image_tokens": shape.tokens,
            "projection_dim": hidden,
            "depth": 1,
        },
        vq_config={
            "embed_dim": 8,
            "num_embeddings": shape.codes,
            "num_patches": math.isqrt(shape.tokens),
            "latent_channels": 32,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "projection_dim": hidden,
            "image_token_embed_dim": hidden,
        },
    )
    model = JanusForConditionalGeneration(config).eval()
    with torch.no_grad():
        for weight in model.model.generation_head.parameters():
            weight *= 5  # fresh weights predict almost uniformly
    model.generation_config.bos_token_id, model.generation_config.pad_token_id = 1, 0
    model.generation_config.generation_kwargs = {"boi_token_id": 2}
    return model


class Timed:
    """A family whose forwards are timed."""

    def __init__(self, family: Any) -> None:
        self.family, self.seconds = family, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.family, name)

    def hidden(self, *args: Any) -> Any:
        """The decoder's forward."""
        return self._timed(self.family.hidden, *args)

    def logits(self, *args: Any) -> Any:
        """The head's."""
        return self._timed(self.family.logits, *args)

    def _timed(self, call: Callable[..., Any], *args: Any) -> Any:
        started = time.perf_counter()
        result = call(*args)
        self.seconds += time.perf_counter() - started
        return result


def measure(
    shape: str, tokens: int, guidance: float, is_corrected: bool, top_k: int
) -> dict[str, float]:
    """Draw one picture's first tokens; medians over the iterations with a full window."""
    model = build(SHAPES[shape])
    corrector = None
    if is_corrected:
        corrector = sjd2.new_corrector(model)
        torch.nn.init.normal_(corrector.shift.weight, std=0.1)
    family = Timed(family_of(model))
    request = family.request(
        input_ids=torch.arange(3, 20)[None],
        generation_mode="image",
        do_sample=True,
        guidance_scale=guidance,
        top_k=top_k,
    )
    request = replace(request, geometry=replace(request.geometry, length=tokens))
    marks: list[tuple[int, float, float]] = []

    def mark(now: Iteration) -> None:
        marks.append((now.state.width, time.perf_counter(), family.seconds))

    method = resolve(sjd2.DecodingConfig(window=WINDOW), Companions(corrector=corrector))
    decode(family, request, method, [0], [OnIteration(mark)])
    # Between two marks lie the end of one iteration and the start of the next; counted are those
    # between full windows, but for the first, which waits for memory.
    pairs = [(a, b) for a, b in pairwise(marks) if a[0] == b[0] == WINDOW][1:]
    whole = [later[1] - sooner[1] for sooner, later in pairs]
    outside = [span - (b[2] - a[2]) for span, (a, b) in zip(whole, pairs, strict=True)]
    return {
        "iterations": len(whole),
        "iteration_ms": 1e3 * statistics.median(whole),
        "outside_ms": 1e3 * statistics.median(outside),
        "outside_share": statistics.median(outside) / statistics.median(whole),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, action="append", help="default: all")
    parser.add_argument("--tokens", type=int, default=160, help="of a picture (default: 160)")
    parser.add_argument("--top-k", type=int, default=2000, help="0 is all (default: 2000)")
    parser.add_argument("--json", type=Path, help="takes the figures")
    given = parser.parse_args()
    rows = []
    print("| shape | guidance | corrector | iteration, ms | outside the forward, ms | share |")
    print("|---|---|---|---|---|---|")
    for shape in given.shape or SHAPES:
        for guidance, is_corrected in ((1.0, False), (5.0, False), (5.0, True)):
            row = measure(shape, given.tokens, guidance, is_corrected, given.top_k)
            rows.append({"shape": shape, "guidance": guidance, "corrector": is_corrected, **row})
            print(
                f"| {shape} | {guidance:g} | {'2 passes' if is_corrected else ''} | "
                f"{row['iteration_ms']:.1f} | {row['outside_ms']:.2f} | "
                f"{100 * row['outside_share']:.1f}% |",
                flush=True,
            )
    if given.json:
        about = {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "platform": platform.platform(),
            "threads": torch.get_num_threads(),
            "codes": CODES,
            "window": WINDOW,
            "top_k": given.top_k,
        }
        given.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
