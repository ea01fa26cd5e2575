"""Stage 2 of the recipe: training scenes as token pictures and prompts, computed once.

Written in parts, each atomically, so that a kill costs one part at most.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from sjd2.demo.build import PROMPT
from sjd2.demo.checkpoint import load_state, save_state
from sjd2.demo.codebook import Codebook, pictures
from sjd2.demo.scenes import Split, sample_scene
from sjd2.demo.shards import Shards

PART = 1024  # scenes in a file
BLOCK = 32  # scenes drawn together


def tokenize(
    book: Codebook,
    tokenizer: PreTrainedTokenizerFast,
    seeds: range,
    split: Split,
    shards: Shards,
) -> dict[str, Tensor]:
    """Scenes as the language model sees them.

    Args:
        book: which code each patch of a picture has.
        tokenizer: of words.
        seeds: of the scenes.
        split: "train" or "held_out".
        shards: whose threads draw.
    Returns:
        dict: "prompts" [N, PROMPT] int16, <pad> ... <bos> words <begin_of_image>, and "codes"
        [N, 256] int16 in reading order, both on the CPU.
    """

    def codes_of(some: range) -> Tensor:
        return book.codes(pictures(some, split)).short()

    blocks = [seeds[i : i + BLOCK] for i in range(0, len(seeds), BLOCK)]
    codes = list(shards.pool.map(codes_of, blocks))
    captions = [sample_scene(seed, split).caption + tokenizer.boi_token for seed in seeds]
    prompts = tokenizer(captions, padding="max_length", max_length=PROMPT, return_tensors="pt")
    if prompts["input_ids"].shape[1] != PROMPT:
        raise ValueError(f"a caption is longer than {PROMPT - 2} words")
    return {"prompts": prompts["input_ids"].short(), "codes": torch.cat(codes)}


def training_tokens(
    book: Codebook,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    scenes: int,
    shards: Shards,
    out_of_time: Callable[[], bool],
) -> dict[str, Tensor] | None:
    """`tokenize` of the first `scenes` training scenes, kept in `folder` as tokens-*.pt.

    Returns:
        dict: "prompts" and "codes" of all scenes; None where time ran out first.
    """
    parts = []
    for start in tqdm(range(0, scenes, PART), "pictures to tokens"):
        path = folder / f"tokens-{start // PART:04d}.pt"
        part = load_state(path)
        if part is None:
            seeds = range(start, min(start + PART, scenes))
            part = tokenize(book, tokenizer, seeds, "train", shards)
            save_state(path, part)
        parts.append(part)
        if out_of_time() and start + PART < scenes:
            return None
    return {name: torch.cat([part[name] for part in parts]) for name in ("prompts", "codes")}
