"""A model whose image tokens are words of its one vocabulary, through transformers' `generate`.

Emu3 and Chameleon are of this kind, and so is a plain language model that was taught to draw: a
family of one's own derives from `DecoderOnly` (see docs/own-family.md).
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache, GenerationConfig
from transformers.generation import EosTokenCriteria

from sjd2.calls.arguments import (
    OtherGenerationError,
    check_limit,
    past_of,
    refuse_arguments,
    refuse_settings,
    sets_length,
)
from sjd2.calls.checks import check_room, check_rope, checked_ids, checked_sampling, unpadded
from sjd2.calls.lockstep import Lockstep
from sjd2.calls.processors import Steps, WholeVocabulary, split_processors
from sjd2.models.backbone import check_attention, run_backbone
from sjd2.models.head import ImageHead
from sjd2.models.layout import Layout, one_size
from sjd2.placement import device_of
from sjd2.protocol import Geometry, Past, PlacedProcessor, Prompt, Request


class DecoderOnly:
    """A decoder-only model of transformers as an `ImageModel`.

    Image tokens are numbered by their ids in the vocabulary, ascending, and the fixed tokens of the
    layout follow. Only these rows of the head are computed.

    Args:
        model: the transformers model; it is used as it is and never changed.
        image_ids: ids of all image tokens in the model's vocabulary.
        image_start_id: the token that ends the prompt of a picture.
        layout: of a picture of the size that the model is known for.
        backbone: the decoder; None is `model.base_model`.
        grammar_ids: the fixed tokens of all layouts, which keep their numbers from one layout to
            another; None takes those of `layout`.

    Raises:
        ValueError: the model has recurrent or sliding-window layers, scales its logits, or lacks
            an id.
    """

    own_generation_mode = False  # transformers' generate has no argument of this name

    def __init__(
        self,
        model: Any,
        image_ids: Sequence[int],
        image_start_id: int,
        layout: Layout,
        backbone: nn.Module | None = None,
        grammar_ids: Sequence[int] | None = None,
    ) -> None:
        self.model = model
        self.backbone: Any = model.base_model if backbone is None else backbone
        self.image_ids, self.image_start_id = sorted(set(image_ids)), image_start_id
        config: Any = self.backbone.config
        check_attention(model, config)
        self.vocabulary: int = config.vocab_size
        self.positions: int = getattr(config, "max_position_embeddings", sys.maxsize)
        for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
            if getattr(config, name, None) not in (None, 1, 1.0):
                raise ValueError(f"model: {name}={getattr(config, name)} is not implemented here")
        if not self.image_ids:
            raise ValueError(f"model: a {type(model).__name__} whose vocabulary has no image token")
        fixed = dict.fromkeys(layout.forced_ids if grammar_ids is None else grammar_ids)
        grammar = [token for token in fixed if token not in set(self.image_ids)]
        self._known = torch.tensor([*self.image_ids, *grammar])
        greatest = int(self._known.max())
        if greatest >= self.vocabulary:
            raise ValueError(f"model: its vocabulary of {self.vocabulary} lacks token {greatest}")
        self.device = device_of(model)
        self.ids, self.vocab_size = self._known.to(self.device), len(self._known)
        head: Any = model.get_output_embeddings()
        self.head = ImageHead(head, self.ids, len(self.image_ids))
        # What processors and scores range over: fewer than the words where images alone are drawn.
        self.scored: int = getattr(head, "out_features", self.vocabulary)
        self.layout, self.geometry = layout, self.geometry_of(layout)

    # What a family may have its own way with.

    def asks_for_picture(self, input_ids: Tensor) -> Tensor:
        """Which prompts [B, L] end where a picture begins: bool [B]."""
        return input_ids[:, -1] == self.image_start_id

    def layout_of(self, input_ids: Tensor, image_sizes: Any) -> Layout:
        """The layout of the pictures that prompts [B, L] ask for.

        Args:
            input_ids: int [B, L].
            image_sizes: (height, width) of every picture in tokens, or None.

        Raises:
            ValueError: a size that the model cannot draw, or several.
        """
        if image_sizes is None:
            return self.layout
        height, width = one_size(image_sizes)
        if (height, width) != (self.layout.height, self.layout.width):
            raise ValueError(
                f"image_sizes: {height}x{width} tokens, but this model draws "
                f"{self.layout.height}x{self.layout.width}"
            )
        return self.layout

    def unconditional_ids(self, input_ids: Tensor) -> Tensor:
        """What guidance compares prompts [B, L] with, where no negative prompt is given: [B, L'].

        As upstream: the last token.
        """
        return input_ids[:, -1:]

    # The protocol.

    def geometry_of(self, layout: Layout) -> Geometry:
        """A layout in the numbers that the sampler knows tokens by.

        Raises:
            ValueError: fixed tokens that the family does not know of.
        """
        odd = set(layout.forced_ids) - set(self._known.tolist())
        if odd:
            raise ValueError(f"layout: fixed tokens {sorted(odd)} are none of the grammar's")
        forced = layout.forced()
        is_free = bool((forced < 0).all())
        grammar = None if is_free else self.numbered(forced).to(self.device)
        return Geometry(layout.length, layout.row_width, grammar)

    def between_fixed(self, ids: Tensor, geometry: Geometry) -> Tensor:
        """Image tokens [B, N], as ids of the vocabulary, between a picture's fixed tokens.

        Returns:
            int64 [B, length], numbered as the sampler knows them.

        Raises:
            ValueError: the pictures of this geometry have another number of image tokens.
        """
        numbers = self.numbered(ids)
        if geometry.grammar is None:
            free = torch.ones(geometry.length, dtype=torch.bool, device=ids.device)
            tokens = numbers.new_zeros(len(ids), geometry.length)
        else:
            free = geometry.grammar < 0
            tokens = geometry.grammar.expand(len(ids), -1).clone()
        if ids.shape[1] != int(free.sum()):
            raise ValueError(
                f"processor: its pictures have {ids.shape[1]} tokens, the model's {int(free.sum())}"
            )
        tokens[:, free] = numbers
        return tokens

    def numbered(self, ids: Tensor) -> Tensor:
        """Ids of the vocabulary as the numbers that the sampler knows tokens by; -1 stays."""
        number = torch.full((self.vocabulary + 1,), -1, device=ids.device)
        number[self._known.to(ids.device)] = torch.arange(len(self._known), device=ids.device)
        return number[ids]

    def embedding_table(self) -> Tensor:
        """See `ImageModel`."""
        embed = self.model.get_input_embeddings()
        # A model that is yet to be brought to where it computes can be asked for its table.
        lies = next((weight.device for weight in embed.parameters()), self.device)
        table: Tensor = embed(self.ids if lies.type == "meta" else self.ids.to(lies))
        return table

    def hidden(self, embeddings: Tensor, positions: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        """See `ImageModel`. The decoder itself: it knows no mask over image logits."""
        return run_backbone(self.backbone, embeddings, positions, mask, cache)

    def logits(self, hidden: Tensor) -> Tensor:
        """See `ImageModel`. Tokens of the grammar are never drawn, only forced."""
        return self.head(hidden)

    def encode(self, pictures: Sequence[Image.Image], processor: Any, geometry: Geometry) -> Tensor:
        """See `ImageModel`."""
        raise ValueError(f"{type(self).__name__} has no tokenizer of pictures")

    def request(self, *args: Any, **kwargs: Any) -> Request | None:
        """See `ImageModel`. The arguments are those of transformers' `generate`.

        Beside them, `generation_mode` ("image", "text" or None: what the prompt asks for) and
        `image_sizes`, (height, width) of every picture in tokens.
        """
        mode = kwargs.pop("generation_mode", None)
        if mode not in (None, "image", "text"):
            raise ValueError(f"generation_mode={mode!r}: must be 'image' or 'text'")
        given = args[0] if args else kwargs.get("inputs")
        input_ids = kwargs.get("input_ids") if given is None else given
        if mode == "text" or (mode is None and not self._draws(input_ids)):
            return None
        try:
            return self._through_stock(input_ids, args, kwargs)
        except OtherGenerationError as other:
            warnings.warn(f"{other}: the model's own generate answers this call", stacklevel=3)
            return None

    def _through_stock(
        self, input_ids: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Request:
        """Let transformers' `generate` prepare a call, and take what it hands to its loop."""
        refuse_arguments(kwargs)
        mask = kwargs.get("attention_mask")
        input_ids, _ = checked_ids(input_ids, mask, self.device, self.vocabulary)
        layout = self._checked_layout(input_ids, kwargs.get("image_sizes"))
        check_limit("max_length", kwargs.get("max_length"), layout.length, input_ids.shape[1])
        if not sets_length(kwargs):
            kwargs["max_new_tokens"] = layout.length
        # Upstream would feed it the prompts and then forget it.
        streamer = kwargs.pop("streamer", None)

        def capture(model: Any, *prepared: Any, image_sizes: Any = None, **more: Any) -> Any:
            more["streamer"] = streamer
            return self.prepared(*prepared, image_sizes=image_sizes, **more)

        request: Request = type(self.model).generate(
            self.model, *args, custom_generate=capture, **kwargs
        )
        return request

    def prepared(
        self,
        input_ids: Tensor,
        logits_processor: Sequence[Any],
        stopping_criteria: Sequence[Any],
        generation_config: GenerationConfig,
        *,
        attention_mask: Tensor | None = None,
        image_sizes: Any = None,
        inputs_embeds: Tensor | None = None,
        streamer: Any = None,
        **rest: Any,
    ) -> Request:
        """The request that `generate` has prepared for a custom decoding loop.

        Args:
            input_ids: int [B, L], expanded for `num_return_sequences`.
            logits_processor: guidance, processors and warpers.
            stopping_criteria: what ends the text, or the picture before it is whole.
            generation_config: every setting.
            attention_mask: [B, L], None where nothing is padded.
            image_sizes: (height, width) of every picture in tokens, or None.
            inputs_embeds: float [B, L, D], fed in place of the ids, or None.
            streamer: of transformers, or None.
            **rest: what else would go to the model, such as a cache of the prompts.

        Raises:
            OtherGenerationError: beam search and the like.
            ValueError: something that cannot be honoured.
        """
        refuse_settings(generation_config, rest)
        input_ids, mask = checked_ids(input_ids, attention_mask, self.device, self.vocabulary)
        layout = self._checked_layout(input_ids, image_sizes)
        check_limit("max_new_tokens", generation_config.max_new_tokens, layout.length)
        steps = split_processors(logits_processor)
        geometry = self.geometry_of(layout)
        sampling = checked_sampling(
            do_sample=bool(generation_config.do_sample),
            guidance_scale=1.0 if steps.guidance is None else steps.guidance.guidance_scale,
            temperature=steps.temperature,
            top_k=steps.top_k,
            top_p=steps.top_p,
            processors=self._others(steps, input_ids, geometry.length),
        )
        past = past_of(rest, mask, self.backbone.config.num_hidden_layers)
        prompt = self._prompt(
            input_ids, mask, inputs_embeds, steps.guidance, generation_config, past
        )
        check_rope(self.backbone.config, prompt, geometry.length)
        self.head.gather()
        # A picture is drawn to its end, also where a token of its grammar would end a text.
        ends = [one for one in stopping_criteria if isinstance(one, EosTokenCriteria)]
        lockstep = Lockstep(
            input_ids,
            geometry,
            generation_config,
            streamer,
            [one for one in stopping_criteria if one not in ends],
            words=(self.ids, self.scored),
            pad_id=prompt.pad_id if ends else None,
        )
        return lockstep.request(prompt, sampling)

    def _draws(self, input_ids: Any) -> bool:
        """Whether a call asks for pictures, by its prompts.

        Raises:
            ValueError: some of them do and some do not.
        """
        if not isinstance(input_ids, Tensor) or input_ids.ndim != 2 or 0 in input_ids.shape:
            return False
        ask = self.asks_for_picture(input_ids)
        if ask.any() and not ask.all():
            raise ValueError(
                f"input_ids: prompts {ask.nonzero().flatten().tolist()} ask for pictures, the "
                "others for text; draw them in calls of their own"
            )
        return bool(ask.all())

    def _checked_layout(self, input_ids: Tensor, image_sizes: Any) -> Layout:
        """The layout that prompts ask for, seen to fit the model's positions."""
        ask = self.asks_for_picture(input_ids)
        if not ask.all():
            raise ValueError(
                f"input_ids: prompts {(~ask).nonzero().flatten().tolist()} do not end with the "
                f"image-start token {self.image_start_id} (and the size of the picture, where the "
                "model takes one)"
            )
        layout = self.layout_of(input_ids, image_sizes)
        check_room(input_ids.shape[1], layout.length, self.positions)
        return layout

    def _others(self, steps: Steps, input_ids: Tensor, length: int) -> tuple[PlacedProcessor, ...]:
        """The processors that the sampler has not built in, if any, as one that it can call."""
        if not steps.others:
            return ()
        return (
            WholeVocabulary(
                steps.others,
                ids=self.ids,
                codes=len(self.image_ids),
                vocab_size=self.scored,
                prompt_width=input_ids.shape[1],
                images=len(input_ids),
                length=length,
            ),
        )

    def _prompt(
        self,
        input_ids: Tensor,
        mask: Tensor,
        inputs_embeds: Tensor | None,
        guidance: Any,
        config: GenerationConfig,
        past: Past | None,
    ) -> Prompt:
        """Embed the prompts, unpadded; with guidance append what they are compared with."""
        embed = self.model.get_input_embeddings()
        if inputs_embeds is None:
            inputs_embeds = embed(input_ids)
        elif inputs_embeds.shape[:2] != input_ids.shape:
            raise ValueError(
                f"inputs_embeds: shape {tuple(inputs_embeds.shape)}, but input_ids have "
                f"{tuple(input_ids.shape)}; both are needed, and alike"
            )
        cached = past.width if past else 0
        embeddings, lengths = unpadded(inputs_embeds[:, cached:], mask[:, cached:])
        if guidance is not None:
            other, other_lengths = unpadded(*self._unconditional(input_ids, guidance))
            width = max(embeddings.shape[1], other.shape[1])
            pair = [
                F.pad(rows, (0, 0, 0, width - rows.shape[1])) for rows in (embeddings, embed(other))
            ]
            embeddings, lengths = torch.cat(pair), torch.cat((lengths, other_lengths))
        pad = config.pad_token_id
        pad = pad[0] if isinstance(pad, list) else pad
        return Prompt(embeddings, lengths, input_ids, pad or 0, self.ids, past)

    def _unconditional(self, input_ids: Tensor, guidance: Any) -> tuple[Tensor, Tensor]:
        """Negative prompts, or the family's own, one per picture, and their mask."""
        context = guidance.unconditional_context
        ids = context["input_ids"]
        if ids is None:
            ids = self.unconditional_ids(input_ids)
            return ids, torch.ones_like(ids, dtype=torch.bool)
        names = ("negative_prompt_ids", "negative_prompt_attention_mask")
        mask = context["attention_mask"]
        ids, mask = checked_ids(ids, mask, self.device, self.vocabulary, names)
        repeats, odd = divmod(len(input_ids), len(ids))
        if odd or not repeats:
            raise ValueError(
                f"negative_prompt_ids: {len(ids)} rows for {len(input_ids)} pictures; give one "
                "for all, or one per prompt"
            )
        return ids.repeat_interleave(repeats, 0), mask.repeat_interleave(repeats, 0)
