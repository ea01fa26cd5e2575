"""The captions of the demonstration's pictures: what they claim, how worded, how read back.

Captions are lower-case words and single spaces, nothing else. `VOCABULARY` lists every word. What
`parse_caption` accepts is what `word_caption` writes, no more: every sentence of the grammar is one
that the embedded model was taught. So sizes are those of single objects, where they may be left
out; the two objects of a pair differ in colour or shape; and "an" stands before a vowel only.
"""

import random
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLOUR_NAMES = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
RELATIONS = ("left of", "right of", "above", "below")
UNSAID = "small"  # the size that is drawn where a caption names none
FORMS = (
    "single",
    "one",
    "single small",
    "single large",
    *(f"pair {relation}" for relation in RELATIONS),
    "two equal",
    "three equal",
)


@dataclass(frozen=True)
class Noun:
    """What a caption says of one object; size is None where it says nothing of it."""

    colour: str
    shape: str
    size: str | None = None


@dataclass(frozen=True)
class Facts:
    """What a caption claims: `count` copies of one noun, or a noun `relation` another noun."""

    nouns: tuple[Noun, ...]
    count: int
    relation: str | None = None

    def combination(self) -> str:
        """The name of what is held out or not: no relation, and the order of a pair forgotten."""
        names = sorted(f"{noun.colour} {noun.shape}" for noun in self.nouns)
        if len(names) == 2:
            return " and ".join(names)
        # One without a size is drawn as small ones are, and so is held out with them.
        size = self.nouns[0].size or UNSAID
        return f"{size} {names[0]}" if self.count == 1 else f"{self.count} {names[0]}"


def is_held_out(facts: Facts) -> bool:
    """Whether this combination is kept out of training: about one in eight.

    Of pairs by a checksum. There are few of one noun: of each count, every shape is held out in one
    colour and every colour in one shape at most, or hardly any would be left to learn it from.
    Large objects are never: they stand alone, so one held out would be seen nowhere at all. Of
    them, sentences are held out (`is_held_out_sentence`).
    """
    if _is_large(facts):
        return False
    if len(facts.nouns) == 2:
        return zlib.crc32(facts.combination().encode()) % 8 == 0
    (noun,) = facts.nouns
    colour, shape = COLOUR_NAMES.index(noun.colour), SHAPES.index(noun.shape)
    return (colour + 2 * shape + 3 * facts.count) % len(COLOUR_NAMES) == 0


def is_held_out_sentence(facts: Facts, caption: str) -> bool:
    """Whether a caption of these facts is kept out of training.

    By its combination; of large objects one sentence in eight is, by a checksum, whatever it says.
    """
    return is_held_out(facts) or (_is_large(facts) and zlib.crc32(caption.encode()) % 8 == 0)


def _is_large(facts: Facts) -> bool:
    return facts.nouns[0].size == "large"


# Captions: a sentence is a skeleton with one "{}" per noun phrase, and perhaps a ground at its end.

SHAPE_WORDS: dict[str, tuple[str, ...]] = {shape: (shape,) for shape in SHAPES}
SHAPE_WORDS["circle"] = ("circle", "disc")
SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
COUNT_WORDS = {1: ("a", "an", "one"), 2: ("two", "a pair of"), 3: ("three", "a group of three")}
GROUND_WORDS = {
    "plaster": ("on a plaster wall", "on rough plaster"),
    "sand": ("on sand", "on the sand"),
    "felt": ("on felt", "on soft felt"),
    "gravel": ("on gravel", "on a bed of gravel"),
    "granite": ("on a granite slab", "on granite"),
    "cork": ("on a cork board", "on cork"),
}
OPENINGS = ("", "there is ", "a picture of ", "a photo of ", "we see ")
JOINTS = {
    "left of": ("to the left of", "on the left of", "left of"),
    "right of": ("to the right of", "on the right of", "right of"),
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "beneath"),
}
ENDINGS = {
    "left of": ("{} on the left and {} on the right", "{} with {} to its right"),
    "right of": ("{} on the right and {} on the left", "{} with {} to its left"),
    "above": ("{} at the top and {} at the bottom", "{} with {} below it"),
    "below": ("{} at the bottom and {} at the top", "{} with {} above it"),
}
ONE_NOUN = {1: tuple(opening + "{}" for opening in OPENINGS)}
ONE_NOUN[2] = ONE_NOUN[3] = tuple(s.replace("there is", "there are") for s in ONE_NOUN[1])
LONGEST_CAPTION = 21  # in words: every sentence of the grammar


def _two_nouns(relation: str) -> tuple[str, ...]:
    joints, endings = JOINTS[relation], ENDINGS[relation]
    return (
        *(f"{opening}{{}} {joint} {{}}" for opening, joint in product(OPENINGS, joints)),
        *(f"{{}} {verb} {joint} {{}}" for verb, joint in product(("is", "sits"), joints)),
        *(opening + ending for opening, ending in product(OPENINGS, endings)),
    )


TWO_NOUNS = {relation: _two_nouns(relation) for relation in RELATIONS}


def plural(word: str) -> str:
    """The plural of the name of a shape."""
    return word + ("es" if word.endswith("s") else "s")


def _meanings(words_of: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    return {word: meaning for meaning, words in words_of.items() for word in words}


SHAPE_OF = _meanings(SHAPE_WORDS)
_PLURALS = {plural(word): shape for word, shape in SHAPE_OF.items()}
SHAPE_OF |= _PLURALS
SIZE_OF = _meanings(SIZE_WORDS)
_COUNT_OF = {phrase: count for count, phrases in COUNT_WORDS.items() for phrase in phrases}
_RELATION_OF = _meanings(TWO_NOUNS)
_NOUN_PHRASE = re.compile(
    rf"\b({'|'.join(sorted(_COUNT_OF, key=len, reverse=True))})"
    rf"(?: ({'|'.join(SIZE_OF)}))? ({'|'.join(COLOUR_NAMES)}) ({'|'.join(SHAPE_OF)})\b"
)
_GROUND_PHRASE = re.compile(rf" ({'|'.join(p for ps in GROUND_WORDS.values() for p in ps)})$")


def _all_phrases() -> Iterator[str]:
    yield from (*COLOUR_NAMES, *SHAPE_OF, *SIZE_OF, *_COUNT_OF, *_RELATION_OF)
    yield from (skeleton for skeletons in ONE_NOUN.values() for skeleton in skeletons)
    yield from (phrase for phrases in GROUND_WORDS.values() for phrase in phrases)


VOCABULARY = tuple(sorted({w for phrase in _all_phrases() for w in phrase.split()} - {"{}"}))


def _noun_phrase(rng: random.Random, noun: Noun, count: int, ones: float) -> str:
    shape = rng.choice(SHAPE_WORDS[noun.shape])
    sizes = [rng.choice(SIZE_WORDS[noun.size])] if noun.size else []
    rest = " ".join([*sizes, noun.colour, shape if count == 1 else plural(shape)])
    if count > 1:
        return f"{rng.choice(COUNT_WORDS[count])} {rest}"
    return f"one {rest}" if rng.random() < ones else with_article(rest)


def with_article(rest: str) -> str:
    """ "a" or "an", as it goes with the words behind it, and these."""
    return f"{'an' if rest[0] in 'aeiou' else 'a'} {rest}"


def word_caption(rng: random.Random, facts: Facts, ground: str) -> str:
    """A random wording of some facts, the ground mentioned or not.

    Args:
        rng: advanced by the number of choices the wording takes.
        facts: what the caption is to claim.
        ground: a key of `GROUND_WORDS`.
    Returns:
        str: at most `LONGEST_CAPTION` words, which `parse_caption` reads back as the same facts.
    """
    skeleton = rng.choice(TWO_NOUNS[facts.relation] if facts.relation else ONE_NOUN[facts.count])
    each = 1 if facts.relation else facts.count
    ones = 1 / 8 if facts.relation else 1 / 3
    caption = skeleton.format(*(_noun_phrase(rng, noun, each, ones) for noun in facts.nouns))
    return f"{caption} {rng.choice(GROUND_WORDS[ground])}" if rng.random() < 0.6 else caption


def form_of(caption: str) -> str:
    """Which of `FORMS` a caption has: the kind of sentence, whatever its opening and ground.

    Raises:
        ValueError: as `parse_caption`.
    """
    facts = parse_caption(caption)
    if facts.relation:
        return f"pair {facts.relation}"
    if facts.count > 1:
        return {2: "two equal", 3: "three equal"}[facts.count]
    if size := facts.nouns[0].size:
        return f"single {size}"
    return "one" if "one" in caption.lower().split() else "single"


def parse_caption(caption: str) -> Facts:
    """What a caption claims.

    Args:
        caption: a sentence of the grammar, any letter case.
    Returns:
        Facts: one noun and its count, or two nouns and the relation of the first to the second.
    Raises:
        ValueError: a word outside `VOCABULARY` (named), or a sentence outside the grammar; the
            message ends with the nearest sentence inside.
    """
    found = _read(caption)
    if isinstance(found, Facts):
        return found
    from sjd2.demo.suggestions import nearest_caption

    raise ValueError(
        f"caption: {caption!r} is outside of what the embedded model was taught: {found}; "
        f"nearest: {nearest_caption(caption)!r}"
    )


def _read(caption: str) -> Facts | str:
    """What a caption claims, or why it is no sentence of the grammar."""
    words = caption.lower().split()
    if unknown := [word for word in words if word not in VOCABULARY]:
        return f"unknown word {unknown[0]!r}"
    sentence = _GROUND_PHRASE.sub("", " ".join(words))
    found = _NOUN_PHRASE.findall(sentence)
    nouns = tuple(Noun(colour, SHAPE_OF[s], SIZE_OF.get(size)) for _, size, colour, s in found)
    counts = [_COUNT_OF[phrase] for phrase, *_ in found]
    skeleton = _NOUN_PHRASE.sub("{}", sentence)
    for phrase, size, colour, shape in found:
        rest = " ".join(filter(None, (size, colour, shape)))
        if (shape in _PLURALS) != (_COUNT_OF[phrase] > 1):
            return f"{shape!r} does not go with {phrase!r}"
        if phrase in ("a", "an") and f"{phrase} {rest}" != with_article(rest):
            return f"{phrase!r} does not go with {rest!r}"
    if counts == [1, 1] and skeleton in _RELATION_OF:
        if any(noun.size for noun in nouns):
            return "it says sizes in a pair"
        if nouns[0] == nouns[1]:
            return "it relates equal objects"
        return Facts(nouns, 2, _RELATION_OF[skeleton])
    if len(counts) == 1 and skeleton in ONE_NOUN[counts[0]]:
        if counts[0] > 1 and nouns[0].size:
            return "it says the size of several objects"
        return Facts(nouns, counts[0])
    return f"no sentence it knows, read as {skeleton!r}"
