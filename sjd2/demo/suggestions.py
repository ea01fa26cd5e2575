"""The nearest sentence that the embedded model knows, for one that it does not."""

import difflib
from collections.abc import Iterator

from sjd2.demo.captions import (
    COLOUR_NAMES,
    COUNT_WORDS,
    GROUND_WORDS,
    ONE_NOUN,
    SHAPE_OF,
    SHAPE_WORDS,
    SIZE_OF,
    SIZE_WORDS,
    TWO_NOUNS,
    VOCABULARY,
    Noun,
    plural,
    with_article,
)

_RELATION_HINTS = {
    "left": "left of",
    "right": "right of",
    "above": "above",
    "over": "above",
    "higher": "above",
    "top": "above",
    "below": "below",
    "under": "below",
    "beneath": "below",
    "bottom": "below",
}
_GROUND_HINTS = {
    word: ground for ground, phrases in GROUND_WORDS.items() for word in (ground, *phrases)
} | {"wall": "plaster", "slab": "granite", "board": "cork"}
# Words that no caption has, but whose meaning is plain.
_SYNONYMS = {
    "dot": "circle", "ball": "circle", "box": "square", "rectangle": "square", "donut": "ring",
    "plus": "cross", "tiny": "small", "huge": "large", "violet": "purple", "single": "one",
    "2": "two", "3": "three", "1": "one", "both": "two", "underneath": "beneath",
}  # fmt: skip


def nearest_caption(caption: str) -> str:
    """A sentence of the grammar near to any text: its colours, shapes and relation where known.

    Args:
        caption: any text.
    Returns:
        str: what `parse_caption` accepts. Words spelled nearly right are taken for right; a colour
        or shape that is missing becomes red or a ring.
    """
    words = [_known(word) for word in caption.lower().replace(",", " ").replace(".", " ").split()]
    nouns = _nouns(words)
    relations = [_RELATION_HINTS[word] for word in words if word in _RELATION_HINTS]
    count = _count(words)
    if len(nouns) > 1 and nouns[0] == nouns[1]:
        nouns, count = nouns[:1], max(2, min(3, len(nouns)))
    if len(nouns) > 1:
        sentences = list(_pairs(nouns[0], nouns[1], relations[:1] or ["left of"]))
    else:
        sentences = list(_equals(nouns[0], count))
    grounds = [_GROUND_HINTS[word] for word in words if word in _GROUND_HINTS]
    ends = [f" {phrase}" for ground in grounds[:1] for phrase in GROUND_WORDS[ground]] or [""]
    return max(
        (sentence + end for sentence in sentences for end in ends),
        key=lambda sentence: difflib.SequenceMatcher(None, sentence.split(), words).ratio(),
    )


def _known(word: str) -> str:
    """The word of the vocabulary that is meant, or the word itself."""
    word = _SYNONYMS.get(word, word)
    if word in VOCABULARY:
        return word
    close = difflib.get_close_matches(word, [*VOCABULARY, *_SYNONYMS], 1, cutoff=0.7)
    return _SYNONYMS.get(close[0], close[0]) if close else word


def _nouns(words: list[str]) -> list[Noun]:
    """At least one noun: colours, sizes and shapes taken together as they follow each other."""
    nouns: list[Noun] = []
    colour: str | None = None
    size: str | None = None
    for word in words:
        if word in COLOUR_NAMES:
            if colour:  # two in turn: the first had no shape that is known
                nouns.append(Noun(colour, "ring", size))
                size = None
            colour = word
        elif word in SIZE_OF:
            size = SIZE_OF[word]
        elif word in SHAPE_OF:
            nouns.append(Noun(colour or "red", SHAPE_OF[word], size))
            colour = size = None
    if colour or not nouns:
        nouns.append(Noun(colour or "red", "ring", size))
    return nouns


def _count(words: list[str]) -> int:
    if "three" in words:
        return 3
    plurals = {plural(shape) for names in SHAPE_WORDS.values() for shape in names}
    return 2 if {"two", "pair", *plurals} & set(words) else 1


def _singulars(noun: Noun, sizes: bool) -> Iterator[str]:
    for shape in SHAPE_WORDS[noun.shape]:
        for size in SIZE_WORDS[noun.size] if noun.size and sizes else [""]:
            rest = " ".join(filter(None, (size, noun.colour, shape)))
            yield from (with_article(rest), f"one {rest}")


def _pairs(first: Noun, second: Noun, relations: list[str]) -> Iterator[str]:
    if (first.colour, first.shape) == (second.colour, second.shape):
        yield from _equals(first, 2)
        return
    for relation in relations:
        for skeleton in TWO_NOUNS[relation]:
            for one in _singulars(first, sizes=False):
                for other in _singulars(second, sizes=False):
                    yield skeleton.format(one, other)


def _equals(noun: Noun, count: int) -> Iterator[str]:
    phrases = (
        list(_singulars(noun, sizes=True))
        if count == 1
        else [
            f"{words} {noun.colour} {plural(shape)}"
            for words in COUNT_WORDS[count]
            for shape in SHAPE_WORDS[noun.shape]
        ]
    )
    for skeleton in ONE_NOUN[count]:
        yield from (skeleton.format(phrase) for phrase in phrases)
