"""GLM-Image: a preview and the picture in one go, and positions in three dimensions.

This is its autoregressive half, which draws the tokens; diffusers' `GlmImagePipeline` holds it as
`vision_language_encoder` and turns its tokens into pixels (docs/glm-image.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GlmImageForConditionalGeneration

from sjd2.models.decoder import DecoderOnly
from sjd2.protocol import Request

Grid = tuple[int, int]  # height and width in tokens
_KNOWN = ((16, 16), (32, 32))  # preview and picture of 1024 x 1024 pixels


@dataclass(frozen=True)
class Grids:
    """The grids that are drawn, one behind the other, and the token that ends them.

    Where a `Layout` has rows of one width, these have one each; the last grid is the picture.
    """

    drawn: tuple[Grid, ...]
    end: int

    @property
    def height(self) -> int:
        """Rows of the picture."""
        return self.drawn[-1][0]

    @property
    def width(self) -> int:
        """Tokens in a row of the picture."""
        return self.drawn[-1][1]

    @property
    def row_width(self) -> int:
        """As `width`: nothing ends a row."""
        return self.width

    @property
    def length(self) -> int:
        """Tokens of all grids, and the end."""
        return sum(height * width for height, width in self.drawn) + 1

    @property
    def forced_ids(self) -> tuple[int, ...]:
        """The fixed tokens."""
        return (self.end,)

    def forced(self) -> Tensor:
        """The fixed token of every position, -1 where one is drawn: int64 [length]."""
        forced = torch.full((self.length,), -1)
        forced[-1] = self.end
        return forced

    def take(self, tokens: Tensor) -> Tensor:
        """The tokens of the picture in [B, length], as they lie: [B, height, width]."""
        picture = tokens[:, self.length - 1 - self.height * self.width : self.length - 1]
        return picture.reshape(len(tokens), self.height, self.width)


class Asked(NamedTuple):
    """What a call draws: `image_grid_thw`, `images_per_sample` and `pixel_values`, read."""

    layout: Grids
    sources: list[list[Grid]]  # of every prompt, the pictures in it
    codes: Tensor | None = None  # int64 [tokens], of all these pictures


class GlmImage(DecoderOnly):
    """`GlmImageForConditionalGeneration` as an `ImageModel`.

    Every grid is drawn to its end: the distribution is the model's own *given* that no other token
    comes before the grid is full. Stock `generate` may draw the end token early, and what it has
    then is no picture; `generation_mode="text"` lets it answer a call as it would.

    Args:
        model: the transformers model; it is used as it is and never changed.
    """

    def __init__(self, model: GlmImageForConditionalGeneration) -> None:
        config = model.config
        self._start, self._end = config.image_start_token_id, config.image_end_token_id
        super().__init__(
            model,
            range(config.vq_config.num_embeddings),
            self._start,
            Grids(_KNOWN, self._end),  # type: ignore[arg-type]
            model.model.language_model,
        )

    def layout_of(self, input_ids: Tensor, image_sizes: Any) -> Any:
        """See `DecoderOnly`; `image_sizes` is what `_asked` has read."""
        if not isinstance(image_sizes, Asked):
            raise ValueError("image_grid_thw: needed, as the processor returns it")
        return image_sizes.layout

    def request(self, *args: Any, **kwargs: Any) -> Request | None:
        """See `DecoderOnly`. Grids, counts and pixels are those of the processor."""
        if kwargs.get("image_sizes") is not None:
            raise ValueError("image_sizes: image_grid_thw says how large the pictures are")
        given = args[0] if args else kwargs.get("inputs")
        input_ids = kwargs.get("input_ids") if given is None else given
        if kwargs.get("generation_mode") != "text" and self._draws(input_ids):
            asked = self.asked_by(**{**kwargs, "input_ids": input_ids})
            pixels = kwargs.pop("pixel_values", None)
            if pixels is not None:
                asked = asked._replace(codes=self._codes(pixels, asked.sources))
            kwargs["image_sizes"] = asked
        return super().request(*args, **kwargs)

    def prepared(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> Request:
        """See `DecoderOnly`."""
        # Upstream repeats these for several pictures of a prompt, grid by grid: out of order. So
        # `request` has read them before.
        grids, images = kwargs.pop("image_grid_thw", None), kwargs.pop("images_per_sample", None)
        asked = kwargs.pop("image_sizes", None)
        if asked is None:
            asked = self.asked_by(input_ids, grids, images)
        repeats = len(input_ids) // len(asked.sources)
        sources = [grids for grids in asked.sources for _ in range(repeats)]
        encoded = (kwargs.pop("mm_encoder_outputs", None) or {}).get("image")
        codes = asked.codes
        if codes is None and encoded is not None:
            codes = self.model.get_image_tokens(encoded.pooler_output)
        if codes is not None and kwargs.get("inputs_embeds") is None:
            kwargs["inputs_embeds"] = self._with_pictures(input_ids, codes, repeats)
        request = super().prepared(input_ids, *args, image_sizes=asked, **kwargs)
        if request.sampling.guidance_scale != 1.0:
            raise ValueError("guidance_scale: the half of GLM-Image that draws tokens has none")
        mask = kwargs.get("attention_mask")
        positions = self._positions(input_ids, mask, sources, asked.layout)
        return replace(request, prompt=replace(request.prompt, positions=positions))

    def asked_by(
        self,
        input_ids: Any,
        image_grid_thw: Any = None,
        images_per_sample: Any = None,
        **others: Any,
    ) -> Asked:
        """The grids of a call of `generate`, checked.

        Args:
            input_ids: int [B, L].
            image_grid_thw: int [grids, 3], of every prompt its pictures, then what is drawn, the
                preview last.
            images_per_sample: int [B], how many of them are each prompt's; None for one prompt.
            **others: are not looked at.

        Raises:
            ValueError: none, not as many as are said, or of pictures that differ in size.
        """
        if not isinstance(image_grid_thw, Tensor) or image_grid_thw.ndim != 2:
            raise ValueError("image_grid_thw: needed, [grids, 3] as the processor returns it")
        prompts, sizes = len(input_ids), [(h, w) for _, h, w in image_grid_thw.tolist()]
        if images_per_sample is None:
            counts = [len(sizes)] if prompts == 1 else []
        else:
            counts = images_per_sample.tolist()
        if len(counts) != prompts or sum(counts) != len(sizes):
            raise ValueError(
                f"images_per_sample: {counts} for {prompts} prompts and {len(sizes)} grids"
            )
        sources, targets = [], set()
        for row, count in zip(input_ids.tolist(), counts, strict=True):
            own, sizes = sizes[:count], sizes[count:]
            shown = row.count(self._end)  # every picture in a prompt ends with this token
            if not shown < count:
                raise ValueError(
                    f"image_grid_thw: a prompt with {shown} pictures has {count} grids"
                )
            sources.append(own[:shown])
            # The list begins with the picture; what is drawn first stands last.
            targets.add(tuple(reversed(own[shown:])))
        if len(targets) != 1:
            raise ValueError(f"image_grid_thw: the pictures of a call have one size, not {targets}")
        return Asked(Grids(targets.pop(), self._end), sources)

    @torch.no_grad()
    def _codes(self, pixel_values: Tensor, sources: list[list[Grid]]) -> Tensor:
        """The codes of the pictures in the prompts, by the model's own tokenizer: [tokens]."""
        grids = torch.tensor([[1, *grid] for own in sources for grid in own], dtype=torch.int64)
        if not len(grids):
            raise ValueError("pixel_values: no prompt has a picture in it")
        features = self.model.get_image_features(pixel_values, grids.to(pixel_values.device))
        codes: Tensor = self.model.get_image_tokens(features.pooler_output)
        return codes

    def _with_pictures(self, input_ids: Tensor, codes: Tensor, repeats: int) -> Tensor:
        """Embed prompts with the codes of their pictures where these stand: [B, L, D]."""
        codes = codes.view(-1)
        ids = input_ids[::repeats].clone()
        stands = ids == self.model.config.image_token_id
        if int(stands.sum()) != len(codes):
            raise ValueError(
                f"pixel_values: {len(codes)} tokens of pictures for {int(stands.sum())} places"
            )
        ids[stands] = codes.to(ids)
        embedded: Tensor = self.model.get_input_embeddings()(ids)
        return embedded.repeat_interleave(repeats, 0)

    def _positions(
        self, input_ids: Tensor, mask: Tensor | None, sources: list[list[Grid]], layout: Grids
    ) -> Tensor:
        """Positions of every entry of a row, prompt and grids: int64 [3, B, S]."""
        rows = []
        for at, row in enumerate(input_ids):
            ids = row if mask is None else row[mask[at].bool()]
            rows.append(positions_of(ids.tolist(), sources[at], layout.drawn, self._end))
        longest = max(row.shape[1] for row in rows)
        padded = [
            torch.cat((row, row[:, -1:].expand(-1, longest - row.shape[1])), 1) for row in rows
        ]
        return torch.stack(padded, dim=1).to(input_ids.device)


def positions_of(
    ids: Sequence[int], sources: Sequence[Grid], drawn: Sequence[Grid], end: int
) -> Tensor:
    """Positions (time, height, width) of a prompt and of what is drawn behind it: int64 [3, S].

    Words count up in all three. A grid stands still in time, and its rows and columns count from
    where it begins; what follows goes on behind its longer side. The end token is a word.

    Args:
        ids: the prompt, unpadded.
        sources: grids of the pictures in it, which each stand before an `end`.
        drawn: grids behind it, in the order in which they are drawn.
        end: the token that ends a picture.
    """
    parts: list[Tensor] = []
    start = 0

    def words(count: int) -> None:
        nonlocal start
        parts.append(torch.arange(start, start + count).expand(3, -1))
        start += count

    def grid(height: int, width: int) -> None:
        nonlocal start
        rows, columns = torch.arange(height), torch.arange(width)
        places = torch.cartesian_prod(rows, columns).view(-1, 2).T
        parts.append(start + torch.cat((torch.zeros_like(places[:1]), places)))
        start += max(height, width)

    ends = [at for at, token in enumerate(ids) if token == end]
    before = 0
    for at, (height, width) in zip(ends, sources, strict=True):
        words(at - height * width - before)
        grid(height, width)
        before = at
    words(len(ids) - before)
    for height, width in drawn:
        grid(height, width)
    words(1)
    return torch.cat(parts, dim=1)
