"""From codes to pixels for Chameleon, Lumina-mGPT and Anole, which transformers gives no decoder.

The decoder of a VQGAN: codes become vectors of the codebook, a 1x1 convolution takes them into the
decoder, two residual blocks with attention between them look at the whole, and level by level the
picture doubles its size. Parameters are named as in the published checkpoints.

Sources: Esser et al. 2021, arXiv 2012.09841 (VQGAN); Gafni et al. 2022, arXiv 2203.13131 (the
tokenizer that Chameleon uses); the layout of checkpoints is that of taming-transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import is_zipfile

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from sjd2.pixels.picture import to_picture

# The half of a published checkpoint that decoding needs.
_PARTS = ("decoder.", "post_quant_conv.", "quantize.embedding.")


@dataclass(frozen=True)
class VQShape:
    """The sizes of a decoder.

    Attributes:
        codes: entries of the codebook.
        embedding: dimensions of an entry.
        latent: channels that enter the decoder.
        widths: channels of every level, the finest first; each level but the finest doubles the
            size of the picture.
        blocks: residual blocks of a level.
        attention: levels that have attention behind every block.
    """

    codes: int
    embedding: int
    latent: int
    widths: tuple[int, ...]
    blocks: int
    attention: frozenset[int] = frozenset()

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> VQShape:
        """The sizes that a checkpoint's tensors have.

        Raises:
            ValueError: it is no checkpoint of such a decoder.
        """
        levels = {int(key.split(".")[2]) for key in state if re.match(r"decoder\.up\.\d+\.", key)}
        blocks = {int(key.split(".")[4]) for key in state if key.startswith("decoder.up.0.block.")}
        attention = {level for level in levels if f"decoder.up.{level}.attn.0.q.weight" in state}
        try:
            codes, embedding = state["quantize.embedding.weight"].shape
            return cls(
                codes,
                embedding,
                state["post_quant_conv.weight"].shape[0],
                tuple(
                    state[f"decoder.up.{level}.block.0.conv1.weight"].shape[0]
                    for level in sorted(levels)
                ),
                len(blocks),
                frozenset(attention),
            )
        except (KeyError, ValueError, IndexError) as error:
            raise ValueError(f"no VQGAN decoder in it: {error} is missing") from error


class VQDecoder(nn.Module):
    """Codes to pixels. Fresh weights are random: `load_vq_decoder` reads trained ones.

    Args:
        shape: the sizes.
    """

    def __init__(self, shape: VQShape) -> None:
        super().__init__()
        self.shape = shape
        self.quantize = nn.ModuleDict({"embedding": nn.Embedding(shape.codes, shape.embedding)})
        self.post_quant_conv = nn.Conv2d(shape.embedding, shape.latent, 1)
        self.decoder = _Decoder(shape)

    def forward(self, codes: Tensor) -> Tensor:
        """Decode.

        Args:
            codes: int64 [B, h, w].

        Returns:
            [B, 3, H, W] in the weights' dtype, about -1 to 1; H = h * 2 ** (levels - 1).
        """
        vectors = self.quantize["embedding"](codes).permute(0, 3, 1, 2)
        pixels: Tensor = self.decoder(self.post_quant_conv(vectors))
        return pixels

    @torch.no_grad()
    def pictures(self, codes: Tensor) -> list[Image.Image]:
        """Decode to pictures, one after the other: pixels take more memory than codes.

        Args:
            codes: int64 [B, h, w], on any device.

        Raises:
            ValueError: codes of another shape, or that the codebook does not have.
        """
        if codes.ndim != 3 or codes.is_floating_point():
            raise ValueError(f"codes: {codes.dtype} {tuple(codes.shape)}, must be int64 [B, h, w]")
        if codes.numel() and (codes.min() < 0 or codes.max() >= self.shape.codes):
            raise ValueError(f"codes: must be in 0..{self.shape.codes - 1}")
        device = self.post_quant_conv.weight.device
        return [to_picture(self(grid[None].to(device))[0]) for grid in codes]


def load_vq_decoder(path: str | Path) -> VQDecoder:
    """Read a decoder's weights, in the layout of the published checkpoints.

    Args:
        path: a .safetensors file; `sjd2 convert` makes one of an old .ckpt file. What else a
            checkpoint holds, such as an encoder, is left where it is.

    Returns:
        The decoder, on the CPU, in eval mode and in the file's dtype.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file of another kind, damaged, or of another layout.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path}: not a safetensors file ({error}); sjd2 convert makes one of a .ckpt file"
        ) from error
    return _filled(path, decoder_part(state))


def convert_vq_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read the decoder's tensors from an old checkpoint, running none of the code in it.

    Args:
        path: a file of `torch.save`, with or without a `state_dict` around the tensors.

    Returns:
        The tensors by name, as `load_vq_decoder` wants them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds anything but tensors and plain values, or no decoder.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    _check_is_pickled(path)
    try:
        # weights_only: a pickle that runs code must not pass for a checkpoint.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path}: not a checkpoint of tensors alone; what else it holds could run code, and is "
            f"refused ({reason})"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    part = decoder_part(tensors)
    _filled(path, part)
    return part


def _check_is_pickled(path: Path) -> None:
    """Refuse what `torch.save` cannot have written, in words of its own."""
    with path.open("rb") as file:
        start = file.read(9)
    # Its files are archives now, and were bare pickles.
    if is_zipfile(path) or start.startswith(b"\x80"):
        return
    # A safetensors file starts with the length of its header, which is JSON.
    hint = ": it is a safetensors file already" if start[8:] == b"{" else ""
    raise ValueError(f"{path}: not a whole checkpoint, as torch.save writes one{hint}")


def decoder_part(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint that decoding needs."""
    return {key: state[key].contiguous() for key in sorted(state) if key.startswith(_PARTS)}


def _filled(path: Path, state: dict[str, Tensor]) -> VQDecoder:
    """A decoder with the tensors of a file, key for key and shape for shape."""
    try:
        with torch.device("meta"):
            decoder = VQDecoder(VQShape.of(state))
        decoder.load_state_dict(state, assign=True)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return decoder.requires_grad_(False).eval()


class _Decoder(nn.Module):
    def __init__(self, shape: VQShape) -> None:
        super().__init__()
        top = shape.widths[-1]
        self.conv_in = nn.Conv2d(shape.latent, top, 3, padding=1)
        self.mid = _Middle(top)
        inputs = [*shape.widths[1:], top]
        self.up = nn.ModuleList(
            _Level(inputs[level], width, shape.blocks, level in shape.attention, level > 0)
            for level, width in enumerate(shape.widths)
        )
        self.norm_out = _norm(shape.widths[0])
        self.conv_out = nn.Conv2d(shape.widths[0], 3, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = self.mid(self.conv_in(hidden))
        for level in reversed(self.up):
            hidden = level(hidden)
        pixels: Tensor = self.conv_out(F.silu(self.norm_out(hidden)))
        return pixels


class _Middle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = _Block(channels, channels)
        self.attn_1 = _Attention(channels)
        self.block_2 = _Block(channels, channels)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = self.block_2(self.attn_1(self.block_1(hidden)))
        return hidden


class _Level(nn.Module):
    """The residual blocks of one size, and the way to twice the size."""

    def __init__(self, inputs: int, width: int, blocks: int, attends: bool, grows: bool) -> None:
        super().__init__()
        widths: Sequence[int] = [inputs, *[width] * blocks]
        self.block = nn.ModuleList(_Block(widths[at], widths[at + 1]) for at in range(blocks))
        self.attn = nn.ModuleList(_Attention(width) for _ in range(blocks if attends else 0))
        if grows:
            self.upsample = nn.ModuleDict({"conv": nn.Conv2d(width, width, 3, padding=1)})

    def forward(self, hidden: Tensor) -> Tensor:
        for at, block in enumerate(self.block):
            hidden = block(hidden)
            if self.attn:
                hidden = self.attn[at](hidden)
        if hasattr(self, "upsample"):
            larger = F.interpolate(hidden, scale_factor=2.0, mode="nearest")
            hidden = self.upsample["conv"](larger)
        return hidden


class _Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = _norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        inner = self.conv1(F.silu(self.norm1(hidden)))
        inner = self.conv2(F.silu(self.norm2(inner)))
        shortcut = self.nin_shortcut(hidden) if hasattr(self, "nin_shortcut") else hidden
        result: Tensor = shortcut + inner
        return result


class _Attention(nn.Module):
    """Every place looks at every other, in one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q, self.k, self.v = (nn.Conv2d(channels, channels, 1) for _ in range(3))
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        normed = self.norm(hidden)
        # [B, 1, places, channels]
        query, key, value = (
            layer(normed).flatten(2).transpose(1, 2).unsqueeze(1)
            for layer in (self.q, self.k, self.v)
        )
        seen = F.scaled_dot_product_attention(query, key, value)
        seen = seen.squeeze(1).transpose(1, 2).reshape(hidden.shape)
        result: Tensor = hidden + self.proj_out(seen)
        return result


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)
