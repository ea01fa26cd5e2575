"""The decoder of Chameleon's pictures: the published layout, and what it computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers.models.chameleon.configuration_chameleon import ChameleonVQVAEConfig
from transformers.models.chameleon.modeling_chameleon import ChameleonVQVAE

import sjd2
from sjd2.models.chameleon import Chameleon
from sjd2.pixels.vqgan import (
    VQDecoder,
    VQShape,
    _Block,
    _Middle,
    convert_vq_checkpoint,
    load_vq_decoder,
)
from tests.family_models import CODES, LUMINA, tiny_chameleon

# The tokenizer of pictures that Chameleon was published with.
PUBLISHED = VQShape(8192, 256, 256, widths=(128, 128, 256, 256, 512), blocks=3)
TINY = VQShape(CODES, 8, 8, widths=(32, 32, 64), blocks=2, attention=frozenset({1}))


def published_layout() -> dict[str, tuple[int, ...]]:
    """Every tensor of the published decoder and its shape, written down from the checkpoint's
    description: base width 128, multipliers 1 1 2 2 4, two residual blocks and one more on the way
    up, no attention but in the middle.
    """
    layout: dict[str, tuple[int, ...]] = {"quantize.embedding.weight": (8192, 256)}

    def conv(name: str, inputs: int, outputs: int, size: int) -> None:
        layout[f"{name}.weight"] = (outputs, inputs, size, size)
        layout[f"{name}.bias"] = (outputs,)

    def norm(name: str, channels: int) -> None:
        layout[f"{name}.weight"] = layout[f"{name}.bias"] = (channels,)

    def block(name: str, inputs: int, outputs: int) -> None:
        norm(f"{name}.norm1", inputs)
        conv(f"{name}.conv1", inputs, outputs, 3)
        norm(f"{name}.norm2", outputs)
        conv(f"{name}.conv2", outputs, outputs, 3)

    conv("post_quant_conv", 256, 256, 1)
    conv("decoder.conv_in", 256, 512, 3)
    block("decoder.mid.block_1", 512, 512)
    norm("decoder.mid.attn_1.norm", 512)
    for name in ("q", "k", "v", "proj_out"):
        conv(f"decoder.mid.attn_1.{name}", 512, 512, 1)
    block("decoder.mid.block_2", 512, 512)
    for level, (inputs, width) in enumerate(
        [(128, 128), (256, 128), (256, 256), (512, 256), (512, 512)]
    ):
        block(f"decoder.up.{level}.block.0", inputs, width)
        block(f"decoder.up.{level}.block.1", width, width)
        block(f"decoder.up.{level}.block.2", width, width)
        if inputs != width:
            conv(f"decoder.up.{level}.block.0.nin_shortcut", inputs, width, 1)
        if level:
            conv(f"decoder.up.{level}.upsample.conv", width, width, 3)
    norm("decoder.norm_out", 128)
    conv("decoder.conv_out", 128, 3, 3)
    return layout


def tiny() -> VQDecoder:
    torch.manual_seed(0)
    return VQDecoder(TINY).eval()


def test_the_layout_is_the_published_one() -> None:
    """Kills: a level more or less, a block called otherwise, a shortcut where there is none."""
    with torch.device("meta"):
        decoder = VQDecoder(PUBLISHED)
    state = decoder.state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == published_layout()
    assert VQShape.of(state) == PUBLISHED


def test_pictures_have_the_size_of_their_codes() -> None:
    """Kills: height and width exchanged; a level that does not grow; values out of range."""
    decoder = tiny()
    codes = torch.randint(CODES, (2, 3, 5))
    assert decoder(codes).shape == (2, 3, 12, 20)
    first, second = decoder.pictures(codes)
    assert first.size == (20, 12)
    assert first.mode == "RGB"
    again = decoder.pictures(codes[1:])[0]
    assert again.tobytes() == second.tobytes()


def test_white_is_one_and_black_is_minus_one() -> None:
    """Kills: another range of pixels; channels last taken for first."""
    decoder = tiny()
    with torch.no_grad():
        decoder.decoder.conv_out.weight.zero_()
        decoder.decoder.conv_out.bias.copy_(torch.tensor([1.2, -1.2, 0.0]))
    picture = decoder.pictures(torch.zeros(1, 2, 2, dtype=torch.int64))[0]
    assert picture.getpixel((7, 3)) == (255, 0, 128)


@torch.no_grad()
def test_blocks_compute_what_the_published_encoders_do() -> None:
    """The encoder that transformers has is built of the same blocks under the same names.

    Kills: another normalisation, activation, order or scale of attention.
    """
    torch.manual_seed(0)
    config = ChameleonVQVAEConfig(
        base_channels=32,
        channel_multiplier=[1, 2],
        num_res_blocks=1,
        latent_channels=8,
        embed_dim=8,
        num_embeddings=CODES,
        resolution=16,
    )
    theirs = ChameleonVQVAE(config).eval().encoder
    for parameter in theirs.parameters():
        parameter.normal_(std=0.2)
    middle, block = _Middle(64), _Block(32, 64)
    middle.load_state_dict(theirs.mid.state_dict())
    block.load_state_dict(theirs.down[1].block[0].state_dict())
    hidden = torch.randn(2, 64, 4, 4)
    expected = theirs.mid.block_2(theirs.mid.attn_1(theirs.mid.block_1(hidden)))
    torch.testing.assert_close(middle(hidden), expected, atol=1e-4, rtol=1e-5)
    hidden = hidden[:, :32]
    torch.testing.assert_close(block(hidden), theirs.down[1].block[0](hidden))


def test_files_round_trip_and_leave_the_encoder(tmp_path: Path) -> None:
    """Kills: tensors that are renamed on the way; an encoder in the way."""
    decoder, codes = tiny(), torch.randint(CODES, (1, 2, 3))
    state = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    other = {"encoder.conv_in.weight": torch.zeros(3), "loss.perceptual": torch.zeros(2)}
    torch.save({"state_dict": {**state, **other}, "epoch": 3}, tmp_path / "old.ckpt")
    converted = convert_vq_checkpoint(tmp_path / "old.ckpt")
    assert converted.keys() == state.keys()
    save_file({**converted, **other}, tmp_path / "new.safetensors")
    loaded = load_vq_decoder(tmp_path / "new.safetensors")
    assert loaded.shape == TINY
    assert torch.equal(loaded(codes), decoder(codes))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


class Evil:
    def __reduce__(self) -> Any:
        return print, ("code of a checkpoint ran",)


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path: Path, capfd: Any) -> None:
    """Kills: a pickle loaded with `weights_only=False`."""
    torch.save({"state_dict": tiny().state_dict(), "callback": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="not a checkpoint of tensors alone"):
        convert_vq_checkpoint(tmp_path / "evil.ckpt")
    assert "ran" not in capfd.readouterr().out


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    """Kills: a half-filled decoder, which would draw noise without a word."""
    state = tiny().state_dict()
    state.pop("decoder.mid.block_1.conv1.bias")
    save_file(state, tmp_path / "lacking.safetensors")
    with pytest.raises(ValueError, match=r"decoder\.mid\.block_1\.conv1\.bias"):
        load_vq_decoder(tmp_path / "lacking.safetensors")
    save_file({"lm_head.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no VQGAN decoder"):
        load_vq_decoder(tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(ValueError, match="sjd2 convert"):
        load_vq_decoder(tmp_path / "text.safetensors")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_vq_decoder(tmp_path / "nowhere.safetensors")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        convert_vq_checkpoint(tmp_path / "nowhere.ckpt")


@pytest.mark.parametrize(
    "codes", [torch.zeros(2, 2).long(), torch.zeros(1, 2, 2), torch.full((1, 2, 2), CODES)]
)
def test_codes_that_are_none_are_refused(codes: torch.Tensor) -> None:
    """Kills: an index error from inside the codebook."""
    with pytest.raises(ValueError, match="codes"):
        tiny().pictures(codes)


def test_chameleons_pictures_end_to_end(tmp_path: Path) -> None:
    """Kills: sequences that cannot be turned into pictures."""
    model = sjd2.accelerate(tiny_chameleon(), window=9)
    codes = Chameleon(model).codes(LUMINA.draw(model, seed=1))
    save_file(tiny().state_dict(), tmp_path / "vqgan.safetensors")
    pictures = sjd2.load_vq_decoder(tmp_path / "vqgan.safetensors").pictures(codes)
    assert [picture.size for picture in pictures] == [(24, 16)] * 3


def two_colours(count: int, generator: torch.Generator) -> torch.Tensor:
    """Pictures [count, 3, 8, 8] of two colours side by side or one above the other."""
    colours = torch.tensor([[-0.8, -0.8, 0.9], [0.9, -0.7, -0.8], [0.8, 0.8, -0.6], [0, 0.8, 0]])
    chosen = colours[torch.randint(4, (2, count), generator=generator)]
    border = torch.randint(1, 4, (count, 1, 1, 1), generator=generator) * 2
    first, second = chosen[..., None, None]
    pictures = torch.where(torch.arange(8) < border, first, second).expand(count, 3, 8, 8)
    is_turned = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    return torch.where(is_turned, pictures.transpose(2, 3), pictures).contiguous()


@pytest.mark.slow
def test_pictures_survive_the_round_trip_through_a_trained_tokenizer(tmp_path: Path) -> None:
    """Chameleon's own encoder and this decoder, trained together, read from one file.

    Kills: a grid of codes that is transposed, red and blue exchanged, rows upside down, a codebook
    in another order than the encoder's, pixels on another scale.
    """
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    sizes = {"embed_dim": 4, "num_embeddings": 32, "latent_channels": 16, "base_channels": 32}
    shape = {"resolution": 8, "channel_multiplier": [1, 1], "num_res_blocks": 1}
    encoder = ChameleonVQVAE(ChameleonVQVAEConfig(**sizes, **shape, attn_resolutions=[])).train()
    decoder = VQDecoder(VQShape(32, 4, 16, widths=(32, 32), blocks=2))
    decoder.quantize["embedding"] = encoder.quantize.embedding
    weights = {*encoder.parameters(), *decoder.parameters()}
    optimiser = torch.optim.AdamW(weights, lr=4e-3)
    for _ in range(400):
        pictures = two_colours(16, generator)
        encoded = encoder.encode(pictures)
        made = decoder.decoder(decoder.post_quant_conv(encoded.quantized_last_hidden_state))
        loss = (made - pictures).square().mean() + encoded.embedding_loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    checkpoint = {**encoder.state_dict(), **decoder.state_dict()}
    save_file({name: tensor.clone() for name, tensor in checkpoint.items()}, tmp_path / "vq.st")
    pictures = two_colours(32, generator)
    codes = encoder.eval().encode(pictures).image_tokens.view(32, 4, 4)
    drawn = load_vq_decoder(tmp_path / "vq.st").pictures(codes)
    again = torch.stack([torch.from_numpy(np.array(picture)) for picture in drawn]).float()
    error = (again.permute(0, 3, 1, 2) / 127.5 - 1 - pictures).square().mean(dim=(1, 2, 3))
    # In decibels below the peak; white noise of the pictures' own variance is at about 6.
    assert (10 * torch.log10(4 / error)).median() > 20
