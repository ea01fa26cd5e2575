"""Whether every method draws its tokens from the embedded model's distribution.

    python bench/check_distribution.py                  # some minutes on 2 cores
    python bench/check_distribution.py --pictures 256   # more power
    python bench/check_distribution.py --adapter DIR    # where it carries no adapter

Pictures are drawn with every method, then the model reads each whole picture in one forward
without a cache and says how surprising every token was. Where tokens follow its distribution,
surprise less entropy has mean zero at every position, so the sum over all tokens is `z` standard
deviations from zero with `z` a standard normal number. A decoder that prefers likely tokens makes
it negative. The last line is one of these, to show that the test has power: corrected drafts that
stay labelled with their old distribution. Exit 1 if any other is beyond 4, or if that one is not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from drawing import METHODS
from torch import Tensor

import sjd2
from sjd2.companions import carried
from sjd2.demo import load
from sjd2.demo.lm import picture_states, unconditional
from sjd2.demo.scenes import held_out_captions
from sjd2.kernels import Rules, Verdict
from sjd2.kernels.target.eager import target_log_probs
from sjd2.sampler.correction import Correction
from sjd2.sampler.watchers import Iteration

PLAIN: dict[str, dict[str, Any]] = {
    "ar": {"method": "ar"},
    "sjd independent, W = 32": {"window": 32, **METHODS["sjd independent"]},
    "sjd gumbel, W = 32": {"window": 32, **METHODS["sjd gumbel"]},
    "sjd maximal, W = 32": {"window": 32, **METHODS["sjd maximal"]},
    "sjd maximal, W = 64": {"window": 64, **METHODS["sjd maximal"]},
}
CORRECTED: dict[str, dict[str, Any]] = {
    "corrected, 2 passes, W = 64": {"method": "sjd", "window": 64},
    "corrected, sweep, W = 64": {"method": "sjd", "window": 64, "corrector_passes": "sweep"},
    "corrected gumbel, W = 64": {"method": "sjd", "window": 64, "verify": "gumbel"},
}
DENOISED: dict[str, dict[str, Any]] = {
    "sjd2, K = 2, W = 64": {"method": "sjd2", "window": 64, "denoising_steps": 2},
    "sjd2, K = 8, W = 64": {"method": "sjd2", "window": 64, "denoising_steps": 8},
}
BATCH = 16
BEYOND = 4.0


@contextmanager
def mislabelled() -> Iterator[None]:
    """Inside the block corrected drafts stay labelled with their distribution before correction."""
    right = Correction.correct

    def wrong(self: Correction, now: Iteration) -> Verdict:
        slots = right(self, now).window.slots
        return now.verdict._replace(window=now.verdict.window._replace(slots=slots))

    Correction.correct = wrong  # type: ignore[method-assign]
    try:
        yield
    finally:
        Correction.correct = right  # type: ignore[method-assign]


def surprise(model: Any, inputs: Any, tokens: Tensor, guidance: float) -> tuple[Tensor, Tensor]:
    """Surprise less entropy under the model's distribution, and its variance: float64 [B, N]."""
    config = model.generation_config
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    boi = config.generation_kwargs["boi_token_id"]
    free = unconditional(ids, config.pad_token_id, config.bos_token_id, boi)
    states = picture_states(
        model, torch.cat((ids, free)), mask.repeat(2, 1), tokens.long().repeat(2, 1)
    )
    logits = model.model.generation_head(states)
    log_p = target_log_probs(logits, Rules(guidance_scale=guidance)).double()
    probability, finite = log_p.exp(), log_p.clamp(min=-1e4)
    entropy = -(probability * finite).sum(-1)
    variance = (probability * finite.square()).sum(-1) - entropy.square()
    return -log_p.gather(-1, tokens.long()[..., None]).squeeze(-1) - entropy, variance


@torch.no_grad()
def z_score(model: Any, processor: Any, pictures: int, **options: Any) -> tuple[float, float]:
    """The standardised sum over all tokens of some pictures, and the step compression."""
    guidance = model.generation_config.guidance_scale
    captions = held_out_captions(pictures, seed=3)
    excess = variance = forwards = 0.0
    for first in range(0, pictures, BATCH):
        inputs = processor(
            text=captions[first : first + BATCH],
            generation_mode="image",
            padding=True,
            return_tensors="pt",
        ).to(model.device)
        with sjd2.accelerated(model, seed=first, **options):
            tokens = model.generate(
                **inputs,
                generation_mode="image",
                do_sample=True,
                guidance_scale=guidance,
                top_k=0,
            )
            forwards += sum(sjd2.decoding_stats(model).forward_passes)
        found, spread = surprise(model, inputs, tokens, guidance)
        excess += float(found.sum())
        variance += float(spread.sum())
    return excess / variance**0.5, tokens.shape[1] * pictures / forwards


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--adapter", default="auto", help="folder of one; default: the model's")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    model, processor = load(given.device)
    print(f"{'method':<32} {'z':>6}  step compression, {given.pictures} pictures")

    def beyond(name: str, options: dict[str, Any]) -> bool:
        z, compression = z_score(model, processor, given.pictures, **options)
        print(f"{name:<32} {z:>6.2f}  {compression:.2f}x", flush=True)
        return abs(z) > BEYOND

    is_corrected = carried(model, "corrector") is not None
    right = PLAIN | (CORRECTED if is_corrected else {})
    if given.adapter != "auto" or carried(model, "adapter") is not None:
        usual = {"adapter": given.adapter, "corrector": None, "schedule": "linear"}
        right |= {name: {**options, **usual} for name, options in DENOISED.items()}
    found = [beyond(name, options) for name, options in right.items()]
    has_power = True
    if is_corrected:
        with mislabelled():
            has_power = beyond("known to be wrong: mislabelled", {"method": "sjd", "window": 64})
    return 1 if any(found) or not has_power else 0


if __name__ == "__main__":
    sys.exit(main())
