"""A model small enough to be enumerated, behind the same protocol as the real ones.

Its distribution depends on *every* token of the prefix, through a code that it reads back from the
cache under the mask it is given. A stale entry that a mask shows, a row written at another row's
offset or a wrong position therefore changes the distribution, and the statistics fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn

from sjd2.kernels import Rules, philox
from sjd2.kernels.philox import Stream
from sjd2.kernels.target.eager import target_log_probs
from sjd2.protocol import Geometry, Prompt, Request, Sampling
from tests.statistics import excess

PAD = 0  # prompt symbols follow the image tokens: symbol = vocab_size + prompt token


class TableModel:
    """Random distributions over `vocab_size` tokens for pictures of `length` tokens.

    Args:
        vocab_size: image tokens.
        length: tokens in a picture.
        grammar: forced tokens by position.
        sharpness: scale of the random logits; 0 is uniform.
    """

    prompt_symbols = 4
    backbone = nn.Identity()  # no layers that an adapter could act on

    def __init__(
        self,
        vocab_size: int = 3,
        length: int = 4,
        grammar: dict[int, int] | None = None,
        sharpness: float = 1.0,
    ) -> None:
        self.vocab_size, self.length = vocab_size, length
        self.sharpness = sharpness
        self.symbols = vocab_size + self.prompt_symbols
        self.grammar: Tensor | None = None
        if grammar:
            self.grammar = torch.full((length,), -1)
            for position, token in grammar.items():
                self.grammar[position] = token
        self.geometry = Geometry(length, 2, self.grammar)

    def next_logits(self, code: Tensor) -> Tensor:
        """The logits behind a prefix code, int64 of any shape S: float32 [*S, V]."""
        noise = philox.gumbel(code, torch.zeros_like(code), 0, Stream.EMBED, self.vocab_size)
        return self.sharpness * noise

    def embedding_table(self) -> Tensor:
        return torch.eye(self.symbols)[: self.vocab_size]

    def hidden(self, embeddings: Tensor, positions: Tensor, mask: Tensor, cache) -> Tensor:
        # Keys carry the symbol, values the position: both must come back from the cache intact.
        keys = embeddings.unsqueeze(1)
        values = positions[:, None, :, None].float()
        keys, values = cache.update(keys, values, 0)
        digits = keys.squeeze(1).argmax(-1) + 1
        weights = (self.symbols + 1) ** values[:, 0, :, 0].long()
        visible = mask.squeeze(1)
        return torch.where(visible, (digits * weights)[:, None], 0).sum(-1)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.next_logits(hidden)

    def request(self, *args, **kwargs):
        raise NotImplementedError("tests build their requests with make_request")

    def prefix_code(self, prompt: Sequence[int], tokens: Sequence[int]) -> int:
        symbols = [self.vocab_size + symbol for symbol in prompt] + list(tokens)
        return sum((s + 1) * (self.symbols + 1) ** at for at, s in enumerate(symbols))

    def step_log_probs(
        self, prompt: Sequence[int], prefixes: Sequence[Sequence[int]], sampling: Sampling
    ) -> Tensor:
        """log p(next | prompt, prefix) by definition, one prefix a row: float64 [N, V]."""
        codes = [self.prefix_code(prompt, prefix) for prefix in prefixes]
        if sampling.guidance_scale != 1.0:
            bare = [PAD] * (len(prompt) - 1) + [prompt[-1]]
            codes += [self.prefix_code(bare, prefix) for prefix in prefixes]
        logits = self.next_logits(torch.tensor(codes))[:, None].double()
        forced = None
        if self.grammar is not None:
            forced = torch.stack([self.grammar[len(prefix)] for prefix in prefixes])[:, None]
        return target_log_probs(logits, rules_of(sampling), forced).squeeze(1)

    def picture_probabilities(self, prompt: Sequence[int], sampling: Sampling) -> Tensor:
        """Probability of every picture, float64 [V ** length], first token most significant."""
        log_p = torch.zeros(1, dtype=torch.float64)
        for depth in range(self.length):
            prefixes = list(product(range(self.vocab_size), repeat=depth))
            step = self.step_log_probs(prompt, prefixes, sampling)
            log_p = (log_p[:, None] + step).flatten()
        return log_p.exp()


def rules_of(sampling: Sampling) -> Rules:
    return Rules(
        guidance_scale=sampling.guidance_scale,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
    )


def make_request(
    model: TableModel, prompts: Sequence[Sequence[int]], sampling: Sampling
) -> Request:
    """A request for one picture per prompt; prompts may have different lengths."""
    rows = [list(prompt) for prompt in prompts]
    if sampling.guidance_scale != 1.0:
        rows += [[PAD] * (len(prompt) - 1) + [prompt[-1]] for prompt in prompts]
    width = max(map(len, rows))
    aligned = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    ids = torch.tensor([[PAD] * (width - len(row)) + list(row) for row in prompts])
    embeddings = torch.eye(model.symbols)[model.vocab_size + aligned]
    lengths = torch.tensor([len(row) for row in rows])
    prompt = Prompt(embeddings, lengths, ids, PAD)
    return Request(prompt, sampling, model.geometry, lambda tokens: tokens)


def picture_index(tokens: Tensor, vocab_size: int) -> Tensor:
    """Number of each picture [B, length] in the order of `picture_probabilities`."""
    weights = vocab_size ** torch.arange(tokens.shape[1] - 1, -1, -1)
    return (tokens * weights).sum(-1)


def chi_square(tokens: Tensor, target: Tensor, vocab_size: int) -> tuple[float, int]:
    """Pearson's statistic of pictures against their distribution, and its degrees of freedom.

    Outcomes expected fewer than five times share one cell, as usual.
    """
    counts = torch.bincount(picture_index(tokens, vocab_size), minlength=len(target)).double()
    expected = target * len(tokens)
    impossible = counts[target == 0].sum()
    if impossible > 0:
        return float("inf"), 1
    common = expected >= 5
    observed = torch.cat((counts[common], counts[~common].sum()[None]))
    expected = torch.cat((expected[common], expected[~common].sum()[None]))
    filled = expected > 0
    statistic = ((observed - expected) ** 2 / expected.clamp(min=1e-300))[filled].sum()
    return float(statistic), int(filled.sum()) - 1


def excess_of_pictures(tokens: Tensor, target: Tensor, vocab_size: int, sees: float) -> float:
    """`chi_square` as a multiple of its threshold, above 1 where pictures are biased.

    Args:
        tokens, target, vocab_size: as for `chi_square`.
        sees: the bias that the test claims to see, as in `tests.statistics.excess`.
    """
    return excess(*chi_square(tokens, target, vocab_size), len(tokens), sees)
