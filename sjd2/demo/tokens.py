"""Stage 2 of the recipe: training scenes as token pictures and prompts, computed once.

Written in parts, each atomically, so that a kill costs one part at most.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sjd2.checkpoint import load_state, save_state
from sjd2.demo.build import GRID, PROMPT
from sjd2.demo.captions import COLOUR_NAMES, SHAPES
from sjd2.demo.codebook import PATCH, Codebook, kinds, pictures
from sjd2.demo.scenes import Scene, Split, outline, sample_scene
from sjd2.demo.shards import Shards
from sjd2.progress import Progress

PART = 1024  # scenes in a file
BLOCK = 32  # scenes drawn together
COMING = 1 + len(COLOUR_NAMES) * len(SHAPES)  # classes of `coming_objects`


def coming_objects(scene: Scene, codes: Tensor) -> Tensor:
    """Which object the next token of an object belongs to, from every token on.

    Args:
        scene: what was drawn.
        codes: [576] int64, its tokens.
    Returns:
        [576] int64: 0 where only ground is left, else 1 + its colour * 5 + its shape. A token of
        an object counts as its own next one.
    """
    place = torch.arange(GRID * GRID)
    x, y = ((PATCH * at + PATCH / 2).numpy() for at in (place % GRID, place // GRID))
    away = torch.stack([torch.as_tensor(outline(thing, x, y)) for thing in scene.things])
    names = [
        1 + len(SHAPES) * COLOUR_NAMES.index(thing.colour) + SHAPES.index(thing.shape)
        for thing in scene.things
    ]
    shown = torch.tensor([*names, 0])[away.argmin(0)]
    # The nearest token of an object at or behind each: a running minimum from the end.
    at = torch.where(kinds()[codes] > 0, place, len(place))
    following = at.flip(0).cummin(0).values.flip(0)
    return torch.cat([shown, shown.new_zeros(1)])[following]


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
        dict of int16 on the CPU: "prompts" [N, PROMPT], <pad> ... <bos> words <begin_of_image>;
        "codes" [N, 576] in reading order; "coming" [N, 576] of `coming_objects`.
    """

    def codes_of(some: range) -> Tensor:
        return book.codes(pictures(some, split))

    blocks = [seeds[i : i + BLOCK] for i in range(0, len(seeds), BLOCK)]
    codes = torch.cat(list(shards.pool.map(codes_of, blocks)))
    scenes = [sample_scene(seed, split) for seed in seeds]
    coming = torch.stack([coming_objects(*pair) for pair in zip(scenes, codes, strict=True)])
    captions = [scene.caption + tokenizer.boi_token for scene in scenes]
    prompts = tokenizer(captions, padding="max_length", max_length=PROMPT, return_tensors="pt")
    if prompts["input_ids"].shape[1] != PROMPT:
        raise ValueError(f"a caption is longer than {PROMPT - 2} words")
    found = {"prompts": prompts["input_ids"], "codes": codes, "coming": coming}
    return {name: tensor.short() for name, tensor in found.items()}


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
        dict: as `tokenize` of all scenes; None where time ran out first.
    """
    parts = []
    with Progress("pictures to tokens", "pictures", scenes) as progress:
        for start in range(0, scenes, PART):
            seeds = range(start, min(start + PART, scenes))
            path = folder / f"tokens-{start // PART:04d}.pt"
            part = load_state(path)
            if part is None:
                part = tokenize(book, tokenizer, seeds, "train", shards)
                save_state(path, part)
                progress.update(seeds.stop)
            else:
                progress.skip(len(seeds))
            parts.append(part)
            if out_of_time() and seeds.stop < scenes:
                return None
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
