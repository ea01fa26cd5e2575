"""What the embedded model is: its sizes, its words, its processor; training fills in the rest."""

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import (
    GenerationConfig,
    JanusConfig,
    JanusForConditionalGeneration,
    JanusProcessor,
    JanusVisionConfig,
    JanusVQVAEConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

from sjd2.demo.captions import LONGEST_CAPTION

PICTURE = 96  # pixels on a side
GRID = 24  # tokens on a side: one token is 4 x 4 pixels
CODES = 512
WIDTH = 256
# With this one rotary frequency, the fifth of 32, turns once in a row of tokens: a head that looks
# at <begin_of_image> reads the column off it. Otherwise the model must tell where a row ends by
# what it has drawn.
ROPE_THETA = (GRID / (2 * math.pi)) ** (32 / 4)
PROMPT = LONGEST_CAPTION + 2  # prompt tokens in training: <bos>, words, <begin_of_image>

# The order fixes the ids: pad is 0.
SPECIAL = {
    "pad_token": "<pad>",
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "unk_token": "<unk>",
    "image_token": "<image>",
    "boi_token": "<begin_of_image>",
    "eoi_token": "<end_of_image>",
}


def build_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer with one id per word, in any letter case; <bos> comes first, padding on the left.

    Args:
        words: the words of the captions, without repetition.
    Returns:
        PreTrainedTokenizerFast: with the special tokens JanusProcessor asks for.
    """
    vocabulary = {word: i for i, word in enumerate([*SPECIAL.values(), ",", *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=SPECIAL["unk_token"]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    bos = SPECIAL["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])]
    )
    named = ("pad_token", "bos_token", "eos_token", "unk_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        padding_side="left",
        model_max_length=128,
        extra_special_tokens={k: v for k, v in SPECIAL.items() if k not in named},
        **{k: SPECIAL[k] for k in named},
    )


def build_processor(words: Iterable[str]) -> JanusProcessor:
    """The processor of the embedded model: `build_tokenizer` and pictures in -1..1, 96 x 96."""
    # The Pil class needs no torchvision, and either class can load what it saves.
    image_processor = JanusImageProcessorPil(
        size={"height": PICTURE, "width": PICTURE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return JanusProcessor(image_processor, build_tokenizer(words), num_image_tokens=GRID * GRID)


def build_config(tokenizer: PreTrainedTokenizerFast) -> JanusConfig:
    """The configuration: under four million parameters, nearly all of them used for drawing."""
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=544,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    # Janus reads pictures with this tower; drawing never calls it, so it is as small as can be.
    vision = JanusVisionConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=PICTURE,
        patch_size=PICTURE // GRID,
        mlp_ratio=2.0,
        projection_dim=WIDTH,
        depth=1,
        num_image_tokens=GRID * GRID,
    )
    vq = JanusVQVAEConfig(
        embed_dim=8,
        num_embeddings=CODES,
        latent_channels=32,
        base_channels=32,
        channel_multiplier=[1, 1, 2],
        num_res_blocks=1,
        num_patches=GRID,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        image_token_embed_dim=WIDTH,
    )
    return JanusConfig(
        text_config=text,
        vision_config=vision,
        vq_config=vq,
        image_token_id=tokenizer.image_token_id,
        tie_word_embeddings=True,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> JanusForConditionalGeneration:
    """The untrained model, float32, in eval mode.

    Args:
        tokenizer: of `build_tokenizer`.
        seed: of the initial weights.
    Returns:
        JanusForConditionalGeneration: the same for the same arguments.

    RNG: torch's global CPU generator, left as it was found.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = JanusForConditionalGeneration(build_config(tokenizer))
    model.generation_config = build_generation_config(tokenizer, guidance=2.0)
    return model.eval()


def build_generation_config(
    tokenizer: PreTrainedTokenizerFast, guidance: float, top_k: int = 0
) -> GenerationConfig:
    """Defaults for drawing: sampling at temperature 1 under guidance; top_k 0 is all codes."""
    config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=1.0,
        top_k=top_k,
        top_p=1.0,
        guidance_scale=guidance,
    )
    config.generation_kwargs = {"boi_token_id": tokenizer.boi_token_id}
    return config


def save(model: JanusForConditionalGeneration, processor: JanusProcessor, folder: Path) -> None:
    """Writes model and processor as `from_pretrained` reads them, the weights in one file."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    # safetensors makes files that only their owner may read; a package is for everyone.
    (folder / "model.safetensors").chmod(0o644)
