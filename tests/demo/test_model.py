"""The embedded model as it ships: it loads offline, draws by stock generate, refuses bad files."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoProcessor,
    GenerationConfig,
    JanusForConditionalGeneration,
    JanusProcessor,
)

from sjd2.demo import WEIGHTS, load
from sjd2.demo.captions import FORMS
from sjd2.demo.checker import check
from sjd2.demo.evaluate import draw
from sjd2.demo.processor import CaptionProcessor
from sjd2.demo.scenes import VOCABULARY, held_out_captions, render, sample_scene
from sjd2.demo.vq import measure_vq

Loaded = tuple[JanusForConditionalGeneration, CaptionProcessor]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load()


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    shutil.copytree(WEIGHTS, folder)
    return folder


def test_load_gives_float32_model_in_eval_mode(loaded: Loaded) -> None:
    model, processor = loaded
    assert type(model) is JanusForConditionalGeneration
    assert type(processor) is CaptionProcessor
    assert not model.training
    assert not model.model.vqmodel.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_folder_is_small_and_holds_no_pickle() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    weights = {p.name: p.stat().st_size for p in files if p.suffix not in (".json", ".jinja")}
    most = {
        "model.safetensors": 16_000_000,
        "corrector.safetensors": 4_000_000,
        "adapter.safetensors": 2_000_000,
    }
    assert weights.keys() == most.keys()
    assert all(size <= most[name] for name, size in weights.items())


def test_sizes_are_those_promised(loaded: Loaded) -> None:
    config = loaded[0].config
    assert config.vision_config.num_image_tokens == 576
    assert config.vq_config.num_embeddings == 512
    assert sum(p.numel() for p in loaded[0].parameters()) <= 4_000_000


def test_saved_again_it_is_the_same_model(loaded: Loaded, tmp_path: Path) -> None:
    model, processor = loaded
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = JanusForConditionalGeneration.from_pretrained(tmp_path)
    mine, theirs = model.state_dict(), again.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert again.lm_head.weight is again.get_input_embeddings().weight
    assert again.generation_config.generation_kwargs == model.generation_config.generation_kwargs
    text = "a red circle above a blue square"
    ids = JanusProcessor.from_pretrained(tmp_path)(text)["input_ids"]
    assert ids.tolist() == processor(text)["input_ids"].tolist()


def test_every_word_has_its_own_token(loaded: Loaded) -> None:
    tokenizer = loaded[1].tokenizer
    ids = tokenizer(" ".join(VOCABULARY))["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert len(set(ids)) == len(VOCABULARY) + 1
    assert tokenizer.unk_token_id not in ids
    assert tokenizer("zebra")["input_ids"][1:] == [tokenizer.unk_token_id]


def test_processor_pads_on_the_left_and_ends_with_begin_of_image(loaded: Loaded) -> None:
    tokenizer = loaded[1].tokenizer
    texts = ["a red circle", "a small red circle on gravel"]
    batch = loaded[1](text=texts, generation_mode="image", padding=True, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert (ids[:, -1] == tokenizer.boi_token_id).all()
    assert ids[0, :3].tolist() == [tokenizer.pad_token_id] * 3
    assert mask.sum(1).tolist() == [5, 8]


def test_auto_processor_finds_it() -> None:
    assert isinstance(AutoProcessor.from_pretrained(WEIGHTS), JanusProcessor)


@pytest.mark.parametrize("text", ["a dog", ["a red ring", "generate red"], []])
def test_the_processor_refuses_what_the_model_was_not_taught(loaded: Loaded, text: Any) -> None:
    """Kills: an unknown token, silently, in Python where the commands refuse."""
    with pytest.raises(ValueError, match="nearest: 'a red ring'" if text else "not an empty list"):
        loaded[1](text=text, generation_mode="image")


def test_picture_survives_preprocessing_and_back(loaded: Loaded) -> None:
    processor = loaded[1]
    picture = Image.fromarray(render(sample_scene(3, "train")))
    pixels = processor.image_processor(picture, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 96, 96)
    back = processor.postprocess(list(pixels), return_tensors="PIL.Image.Image")["pixel_values"][0]
    assert np.abs(np.asarray(back, int) - np.asarray(picture, int)).max() <= 1


def test_generation_defaults_sample_widely() -> None:
    config = GenerationConfig.from_pretrained(WEIGHTS)
    assert config.do_sample
    assert config.top_k == 0 or config.top_k >= 100
    assert config.temperature in (None, 1.0)
    assert config.top_p in (None, 1.0)
    assert config.guidance_scale > 1
    assert config.generation_kwargs == {"boi_token_id": 5}


def test_stock_generate_draws_the_caption(loaded: Loaded) -> None:
    model, processor = loaded
    captions = held_out_captions(8)
    config = model.generation_config
    pictures = draw(model, processor, captions, config.guidance_scale, 0, config.top_k)
    assert {picture.size for picture in pictures} == {(96, 96)}
    # A model that ignored its captions would pass about one in a thousand of them.
    passed = [check(p, caption).passed for p, caption in zip(pictures, captions, strict=True)]
    assert sum(passed) >= 5


def test_generate_returns_576_codes(loaded: Loaded) -> None:
    model, processor = loaded
    inputs = processor(text=["a red circle"], generation_mode="image", return_tensors="pt")
    codes = model.generate(**inputs, generation_mode="image")
    assert codes.shape == (1, 576)
    assert 0 <= int(codes.min()) <= int(codes.max()) < 512
    assert model.decode_image_tokens(codes).shape == (1, 96, 96, 3)


def test_codebook_is_used_and_rebuilds_pictures(loaded: Loaded) -> None:
    measured = measure_vq(loaded[0].model.vqmodel, 64, torch.device("cpu"))
    assert measured["perplexity"] >= 0.6 * 512
    assert measured["psnr"] >= 20


def test_codes_lie_on_the_unit_sphere(loaded: Loaded) -> None:
    lengths = loaded[0].model.vqmodel.quantize.embedding.weight.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(512))


def test_metrics_say_what_was_measured() -> None:
    """Kills: weights that were shipped before the checker passed them, or not in every form."""
    metrics = json.loads((WEIGHTS / "metrics.json").read_text())
    forms = metrics["checker"]["forms"]
    assert set(forms) == {*FORMS, "every object"}
    assert all(form["captions"] >= 40 for form in forms.values())
    assert [name for name, one in forms.items() if one["passed"] < 0.95 * one["captions"]] == []
    assert forms["every object"]["captions"] == 70
    assert forms["every object"]["passed"] >= 67
    assert metrics["tokenizer"]["perplexity"] >= 0.6 * 512


def test_missing_weights_are_named(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors: no such file"):
        load(folder=copied)


def test_pickles_are_refused(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pickles are refused: pytorch_model\.bin"):
        load(folder=copied)


@pytest.mark.parametrize("kept", [0, 100, 1_000_000])
def test_truncated_weights_are_named(copied: Path, kept: int) -> None:
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged"):
        load(folder=copied)


def test_one_flipped_byte_is_found(copied: Path) -> None:
    weights = copied / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors: not the file that"):
        load(folder=copied)


def test_weights_of_another_model_are_refused(copied: Path) -> None:
    weights = copied / "model.safetensors"
    torch_tensors = {"model.other.weight": torch.zeros(3)}
    _save_with_checksum(copied, torch_tensors)
    with pytest.raises(ValueError, match=r"weights of another model"):
        load(folder=copied)
    assert weights.exists()


def test_damaged_metrics_and_config_are_named(copied: Path) -> None:
    (copied / "config.json").write_text("{")
    with pytest.raises(ValueError, match="weights"):
        load(folder=copied)
    (copied / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match=r"metrics\.json: missing or damaged"):
        load(folder=copied)


def _save_with_checksum(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Foreign weights whose checksum is right, so that only their names give them away."""
    import hashlib

    from safetensors.torch import save_file

    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["sha256"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "metrics.json").write_text(json.dumps(metrics))
