"""Genuine Emu3 and Chameleon models of a few thousand weights, random, and prompts for them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import (
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    Emu3Config,
    Emu3ForConditionalGeneration,
    LogitsProcessorList,
)

from sjd2.models.layout import Layout

PAD, BOS = 0, 1
CODES = 40
HIDDEN = 32
_TEXT = {
    "hidden_size": HIDDEN,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 160,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
}


def louder(model: Any, embeddings: Any) -> Any:
    """Fresh weights say next to nothing: louder, they give distributions worth sampling from."""
    with torch.no_grad():
        model.get_output_embeddings().weight *= 25
        embeddings.weight *= 5
        for name, weight in model.named_parameters():
            if "self_attn" in name and "proj" in name:
                weight *= 6
    return model.eval()


# Emu3: digits to be read, image tokens behind the words, ids in the reverse order of codes.
EMU3_IMAGE, EMU3_EOL, EMU3_EOF, EMU3_WRAP, EMU3_BOI, EMU3_EOI, EMU3_EOS = 50, 40, 41, 42, 43, 44, 2
EMU3_DIGITS = {name: 20 + at for at, name in enumerate("0123456789*")}


def tiny_emu3(attention: str = "sdpa", codes: int = CODES) -> Emu3ForConditionalGeneration:
    torch.manual_seed(0)
    names = {f"<|visual token {code:06d}|>": EMU3_IMAGE + codes - 1 - code for code in range(codes)}
    names |= {"<image>": 3, "<|extra_200|>": EMU3_EOL, "<|extra_201|>": EMU3_EOF, **EMU3_DIGITS}
    names |= {"<|image token|>": EMU3_WRAP, "<|image start|>": EMU3_BOI}
    names |= {"<|image end|>": EMU3_EOI}
    config = Emu3Config(
        text_config={**_TEXT, "vocab_size": 95, "num_key_value_heads": 2, "eos_token_id": EMU3_EOS},
        vq_config={
            "codebook_size": codes,
            "embed_dim": 4,
            "latent_channels": 4,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "attn_resolutions": [],
            "hidden_size": 32,
            "temporal_downsample_factor": 1,
        },
        vocabulary_map=names,
        attn_implementation=attention,
    )
    model = Emu3ForConditionalGeneration(config)
    return louder(model, model.get_input_embeddings())


# Chameleon: special tokens by name; image ids interleaved with a word.
CHAMELEON_IMAGE = [*range(4, 24), *range(25, 45)]
CHAMELEON_EOI, CHAMELEON_BOI, CHAMELEON_EOL, CHAMELEON_END = 46, 47, 48, 49
CHAMELEON_SIZE = 50  # the token of size n is 50 + n
_LETTERS = "ABCDEFGHIJ"


def _image_name(code: int) -> str:
    return "IMGIMG" + "".join(_LETTERS[int(digit)] for digit in str(code)) + "Z"


def tiny_chameleon(
    attention: str = "sdpa", codes: int = CODES
) -> ChameleonForConditionalGeneration:
    torch.manual_seed(0)
    shuffled = [CHAMELEON_IMAGE[(7 * code) % codes] for code in range(codes)]
    names = {_image_name(code): token for code, token in enumerate(shuffled)}
    names |= {"<image>": 3, "<eoss>": CHAMELEON_EOI, "<racm3:break>": CHAMELEON_BOI}
    names |= {"<reserved08799>": CHAMELEON_EOL, "<reserved08706>": CHAMELEON_END}
    names |= {f"<reserved{8800 + n:05d}>": CHAMELEON_SIZE + n for n in range(1, 9)}
    config = ChameleonConfig(
        **_TEXT,
        vocab_size=95,
        num_key_value_heads=4,
        eos_token_id=2,
        vq_config={
            "embed_dim": 8,
            "num_embeddings": codes,
            "latent_channels": 8,
            "base_channels": 32,
            "channel_multiplier": [1, 1, 1],
            "num_res_blocks": 1,
            "resolution": 16,
        },
        vocabulary_map=names,
        attn_implementation=attention,
    )
    model = ChameleonForConditionalGeneration(config)
    return louder(model, model.get_input_embeddings())


@dataclass(frozen=True)
class Family:
    """What the tests of all families need to know of one."""

    name: str
    make: Callable[..., Any]
    tail: tuple[int, ...]  # what ends a prompt of a picture
    layout: Layout
    image: tuple[int, ...]  # ids that can be drawn
    context: int  # tokens at the prompt's end that guidance compares with
    stock: Callable[[Any], Any] = field(
        default=lambda model: model
    )  # a twin upstream can draw with

    def prompts(self, rows: int = 3) -> tuple[Tensor, Tensor]:
        """Prompts of different lengths, padded on the left, and their mask."""
        words = [[1, 5, 6], [1, 9, 8, 7, 5], [1, 4], [1, 11, 6, 6]][:rows]
        texts = [row + list(self.tail) for row in words]
        width = max(map(len, texts))
        ids = torch.tensor([[PAD] * (width - len(text)) + text for text in texts])
        mask = torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in texts])
        return ids, mask

    def constraint(self, prompt_width: int) -> Callable[[int, Tensor], list[int]]:
        """The grammar, as upstream is told of it."""
        forced = self.layout.forced().tolist()

        def allowed(batch_id: int, prefix: Tensor) -> list[int]:
            token = forced[len(prefix) - prompt_width]
            return list(self.image) if token < 0 else [token]

        return allowed

    def draw(self, model: Any, rows: int = 3, **options: Any) -> Tensor:
        """`generate` on the prompts above."""
        ids, mask = self.prompts(rows)
        settings = {"do_sample": True, "top_k": 0, **options}
        return model.generate(input_ids=ids, attention_mask=mask, **settings)

    def draw_stock(self, model: Any, rows: int = 3, **options: Any) -> Tensor:
        """The same by upstream's own loop, told of the grammar and of what guidance compares."""
        ids, mask = self.prompts(rows)
        if "guidance_scale" in options and "negative_prompt_ids" not in options:
            options["negative_prompt_ids"] = ids[:, -self.context :]
        processors = options.pop("logits_processor", LogitsProcessorList())
        return self.stock(model).generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=self.layout.length,
            prefix_allowed_tokens_fn=self.constraint(ids.shape[1]),
            logits_processor=processors,
            eos_token_id=None,
            **options,
        )


def replayed_log_probs(
    family: Family, model: Any, prompts: Tensor, pictures: Tensor, scale: float
) -> Tensor:
    """Log-probabilities of image tokens at every position, from one cacheless forward each.

    Args:
        family: of the model.
        model: it is called below its mask.
        prompts: int64 [B, L], padded with `PAD`.
        pictures: int64 [B, N].
        scale: of guidance; 1 is off.

    Returns:
        float32 [B, N, C], tokens ascending.
    """
    inner = model.model.text_model if family.name == "emu3" else model.model

    def logits(context: Tensor, picture: Tensor) -> Tensor:
        hidden = inner(input_ids=torch.cat((context, picture))[None, :-1]).last_hidden_state
        return model.lm_head(hidden[0, len(context) - 1 :])[:, sorted(family.image)]

    targets = []
    for prompt, picture in zip(prompts, pictures, strict=True):
        target = logits(prompt[prompt != PAD], picture)
        if scale != 1:
            bare = logits(prompt[-family.context :], picture)
            target = bare + scale * (target - bare)
        targets.append(target.log_softmax(-1))
    return torch.stack(targets)


def mask_lifted(model: Any) -> Any:
    """A Chameleon whose forward forbids no image token."""
    twin = copy.deepcopy(model)
    twin.model.vocabulary_mapping.__dict__["image_tokens"] = []
    return twin


EMU3 = Family(
    "emu3",
    tiny_emu3,
    (EMU3_BOI, EMU3_DIGITS["4"], EMU3_DIGITS["*"], EMU3_DIGITS["5"], EMU3_WRAP),
    Layout(4, 5, (EMU3_EOL,), (EMU3_EOF, EMU3_EOI, EMU3_EOS)),
    tuple(range(EMU3_IMAGE, EMU3_IMAGE + CODES)),
    context=1,
)
LUMINA = Family(
    "lumina",
    tiny_chameleon,
    (CHAMELEON_BOI, CHAMELEON_SIZE + 2, CHAMELEON_SIZE + 3),
    Layout(4, 6, (CHAMELEON_EOL,), (CHAMELEON_EOI, CHAMELEON_END)),
    tuple(CHAMELEON_IMAGE),
    context=3,
    stock=mask_lifted,
)
ANOLE = Family(
    "anole",
    tiny_chameleon,
    (CHAMELEON_BOI,),
    Layout(4, 4, after=(CHAMELEON_EOI,)),
    tuple(CHAMELEON_IMAGE),
    context=1,
    stock=mask_lifted,
)
FAMILIES = {family.name: family for family in (EMU3, LUMINA, ANOLE)}
