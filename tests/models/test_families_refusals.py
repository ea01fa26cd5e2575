"""What families cannot honour is named before any forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)

import sjd2
from sjd2.models import family_of
from tests.family_models import (
    ANOLE,
    CHAMELEON_BOI,
    CHAMELEON_SIZE,
    EMU3,
    EMU3_BOI,
    EMU3_DIGITS,
    EMU3_WRAP,
    Family,
    tiny_chameleon,
    tiny_emu3,
)

REFUSALS = [
    ({"temperature": -1.0}, "temperature"),
    ({"top_p": -0.5}, "top_p"),
    ({"top_p": 1.5}, "top_p"),
    ({"top_p": "much"}, "top_p"),
    ({"generation_config": GenerationConfig(do_sample=True, top_p=1.5)}, "top_p"),
    ({"guidance_scale": 0.5}, "guidance_scale"),
    ({"guidance_scale": float("nan")}, "guidance_scale"),
    ({"output_hidden_states": True, "return_dict_in_generate": True}, "output_hidden_states"),
    ({"output_attentions": True, "return_dict_in_generate": True}, "output_attentions"),
    ({"stop_strings": ["."], "tokenizer": object()}, "stop_strings"),
    ({"max_new_tokens": 5}, r"max_new_tokens=5: a picture always has \d+ tokens"),
    ({"max_length": 12}, r"max_length=12: a picture always has \d+ tokens"),
    ({"cache_implementation": "offloaded"}, "cache_implementation"),
    ({"pixel_values": torch.zeros(3, 3, 8, 8)}, "pixel_values"),
    ({"inputs_embeds": torch.zeros(3, 4, 32)}, "inputs_embeds: shape"),
    ({"position_ids": torch.zeros(3, 4)}, "position_ids"),
    ({"repetition_penalty": 1.3, "guidance_scale": 2.0}, "repetition_penalty"),
    ({"generation_mode": "images"}, "generation_mode='images'"),
    ({"image_sizes": [[7, 7]]}, "image_sizes"),
    ({"image_sizes": [[4, 4], [2, 2], [4, 4]]}, "one size"),
    ({"image_sizes": 5}, "image_sizes=5"),
    ({"seed": [1, 2]}, r"2 entries.*3 images"),
    ({"sed": 3}, "sed"),
    ({"guidance_scale": 2.0, "negative_prompt_ids": torch.ones(2, 3).long()}, "2 rows for 3"),
    (
        {"guidance_scale": 2.0, "negative_prompt_ids": torch.ones(1, 3)},
        "negative_prompt_ids: dtype",
    ),
    ({"guidance_scale": 2.0, "negative_prompt_ids": torch.tensor([[1, 99]])}, r"in 0\.\.94"),
]


@pytest.fixture
def _no_forwards(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a forward ran before the arguments were checked")

    monkeypatch.setattr(family_of(model).backbone, "forward", refuse)


@pytest.mark.usefixtures("_no_forwards")
@pytest.mark.parametrize(("options", "message"), REFUSALS)
def test_what_cannot_be_honoured_is_refused_before_any_forward(
    family: Family, model: Any, options: dict[str, Any], message: str
) -> None:
    """Kills: an argument silently dropped, a check that comes after the work."""
    sjd2.accelerate(model)
    with pytest.raises(ValueError, match=message):
        family.draw(model, **options)


@pytest.mark.usefixtures("_no_forwards")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids, mask: (None, mask), "a tensor of prompt tokens"),
        (lambda ids, mask: (ids.float(), mask), "dtype"),
        (lambda ids, mask: (ids[0], mask[0]), "shape"),
        (lambda ids, mask: (ids.to("meta"), mask), "is on meta"),
        (lambda ids, mask: (ids, mask[:, 1:]), "attention_mask: shape"),
        (lambda ids, mask: (ids, mask.flip(1)), "padded on the left"),
        (lambda ids, mask: (torch.where(ids == 5, 95, ids), mask), r"in 0\.\.94"),
        (lambda ids, mask: (ids[:, :-1], mask[:, 1:]), "image-start token"),
        (lambda ids, mask: (ids[:, :1].repeat(1, 200), None), "image-start token"),
    ],
)
def test_a_bad_prompt_is_refused_before_any_forward(
    family: Family, model: Any, change: Any, message: str
) -> None:
    """Kills: an index error from inside an embedding; text drawn where a picture was asked for."""
    ids, mask = change(*family.prompts())
    sjd2.accelerate(model)
    with pytest.raises(ValueError, match=message):
        model.generate(ids, generation_mode="image", do_sample=True, attention_mask=mask)


@pytest.mark.usefixtures("_no_forwards")
def test_prompts_of_a_call_agree_on_what_they_ask_for(family: Family, model: Any) -> None:
    """Kills: a text prompt that is drawn from because its neighbour asks for a picture."""
    ids, _ = family.prompts()
    ids[1, -1] = 7
    sjd2.accelerate(model)
    with pytest.raises(ValueError, match=r"prompts \[0, 2\] ask for pictures"):
        model.generate(ids)


@pytest.mark.usefixtures("_no_forwards")
def test_guidance_that_is_not_first_is_refused(family: Family, model: Any) -> None:
    """Kills: a guidance processor of the caller's run on a window, where it would lose count."""
    late = UnbatchedClassifierFreeGuidanceLogitsProcessor(2.0, model)
    sjd2.accelerate(model)
    with pytest.raises(ValueError, match="guidance has to come first"):
        family.draw(model, logits_processor=LogitsProcessorList([late]), sequence_bias=[[[5], 1.0]])


def emu3_prompt(size: str, digits: bool = True) -> torch.Tensor:
    written = [EMU3_DIGITS[name] for name in size]
    return torch.tensor([[1, 5, EMU3_BOI, *written, EMU3_WRAP]])


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        ("99*99", {}, "room for"),
        ("0*4", {}, "0x4 tokens"),
        ("4", {}, "image_sizes: needed"),
        ("4*", {}, "image_sizes: needed"),
        ("4*5", {"image_sizes": [[5, 4]]}, r"\(5, 4\), but the prompt says \(4, 5\)"),
    ],
)
def test_emu3_refuses_sizes_that_it_cannot_draw(
    size: str, options: dict[str, Any], message: str
) -> None:
    """Kills: a picture that ends beyond the known positions; a size guessed."""
    model = sjd2.accelerate(tiny_emu3())
    with pytest.raises(ValueError, match=message):
        model.generate(emu3_prompt(size), **options)


def test_emu3_takes_the_size_from_the_processor_where_the_prompt_cannot_be_read() -> None:
    """Kills: a vocabulary map without digits that makes the model unusable."""
    model = tiny_emu3()
    for name in "0123456789*":
        del model.config.vocabulary_map[name]
    sjd2.accelerate(model, window=7)
    expected = EMU3.draw(sjd2.accelerate(tiny_emu3(), window=7), seed=1)
    with pytest.raises(ValueError, match="image_sizes: needed"):
        EMU3.draw(model, seed=1)
    assert torch.equal(EMU3.draw(model, seed=1, image_sizes=[[4, 5]] * 3), expected)
    assert torch.equal(EMU3.draw(model, seed=1, image_sizes=torch.tensor([[4, 5]])), expected)


def test_chameleon_takes_sizes_of_one_kind() -> None:
    """Kills: an Anole prompt drawn as Lumina-mGPT's, or the other way round."""
    model = sjd2.accelerate(tiny_chameleon())
    sized = [1, 5, CHAMELEON_BOI, CHAMELEON_SIZE + 2, CHAMELEON_SIZE + 3]
    plain = [0, 0, 1, 5, CHAMELEON_BOI]
    with pytest.raises(ValueError, match="size tokens, or none"):
        model.generate(torch.tensor([sized, plain]))
    other = [*sized[:-1], CHAMELEON_SIZE + 2]
    with pytest.raises(ValueError, match="one size"):
        model.generate(torch.tensor([sized, other]))
    with pytest.raises(ValueError, match="Lumina-mGPT reads it from two size tokens"):
        model.generate(torch.tensor([plain]), image_sizes=[[6, 6]])


def test_chameleon_refuses_pictures_beyond_its_positions() -> None:
    """Kills: 8x8 blocks of which the last rows lie where the model was never trained."""
    model = sjd2.accelerate(tiny_chameleon())
    with pytest.raises(ValueError, match="room for"):
        model.generate(torch.tensor([[1, CHAMELEON_BOI, CHAMELEON_SIZE + 8, CHAMELEON_SIZE + 8]]))


def test_names_that_a_checkpoint_lacks_are_the_published_ids() -> None:
    """Kills: a vocabulary map without special tokens that fails; ids beyond the vocabulary."""
    model = tiny_chameleon()
    del model.config.vocabulary_map["<eoss>"]
    with pytest.raises(ValueError, match="lacks token 8196"):
        sjd2.accelerate(model)
    assert family_of(tiny_chameleon()).layout.forced_ids == ANOLE.layout.after
