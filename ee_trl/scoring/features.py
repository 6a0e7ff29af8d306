"""Hashed features of a reply and its context, for [`ee_trl.scoring.linear`].

[`tokenise`] brings text into one form: lower case, contractions written out, punctuation as tokens of its own. So
`"I'm sorry, that's awful!"` and `"i 'm sorry , that 's awful !"` give the same features. No vocabulary is kept: a word
is its hash. Word hashes are mixed into n-gram hashes as whole arrays, which makes the scorer fast.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, lru_cache
from itertools import chain
from threading import RLock
from typing import Any, NamedTuple, overload

import numpy as np

from ..data.dialogue import Dialogue


FEATURE_VERSION = 1
"""Part of every fingerprint: increase it with any change in this file that changes a feature."""

MAX_CHARACTERS = 4000  # of one utterance; the rest is ignored
EARLIER_UTTERANCES = 2  # before the last turn

WORD_BITS, CHAR_BITS = 18, 16
"""Log2 of the number of buckets of each block of words, and of the block of characters."""
REPLY, TURN, EARLIER = "reply", "turn", "earlier"
WORD_BLOCKS = {REPLY: 3, TURN: 2, EARLIER: 1}
"""Each block of words and its longest n-gram: the reply, the utterance before it, and those before that."""
CHARS = "chars"
CHAR_LENGTHS = (2, 3, 4, 5)  # n-grams inside the words of the reply, borders included
SURFACE = 19  # features that `surface` gives

LONGEST = 1000
# Looked up rather than computed, since a vectorised logarithm may differ in its last bit with the size of the batch.
_LOG1P = np.log1p(np.arange(LONGEST + 1))

_QUOTES = str.maketrans(dict.fromkeys("’‘´ʼ＇", "'") | dict.fromkeys("“”„«»", '"'))
_SUBJECTS = "it|he|she|that|this|there|here|what|who|where|when|how|why|everything|everyone|something|someone"
# (a text in every match, the pattern, its replacement): to look for the text first is many times faster
_CONTRACTIONS = (
    (" '", re.compile(r" ?'(?=(?:s|m|re|ve|ll|d|t)\b)"), "'"),
    ("n't", re.compile(r"\bcan't\b|\bca n't\b"), "can not"),
    ("n't", re.compile(r"\bwon't\b|\bwo n't\b"), "will not"),
    ("n't", re.compile(r"\bain't\b|\bai n't\b"), "is not"),
    ("n't", re.compile(r" ?n't\b"), " not"),
    ("'m", re.compile(r"'m\b"), " am"),
    ("'re", re.compile(r"'re\b"), " are"),
    ("'ve", re.compile(r"'ve\b"), " have"),
    ("'ll", re.compile(r"'ll\b"), " will"),
    ("let's", re.compile(r"\blet's\b"), "let us"),
    ("'s", re.compile(rf"\b({_SUBJECTS})'s\b"), r"\1 is"),
    ("'d", re.compile(r"\b(i|you|he|she|it|we|they|that|there|who|what)'d\b"), r"\1 would"),
)
_TOKEN = re.compile(r"'s\b|[^\W_]+|[.](?: ?[.])*|[!?](?: ?[!?])*|[^\w\s'\"]")
_REPEATED = re.compile(r"(.)\1{2,}")


def _written_out(text: str) -> str:
    """Text in lower case with its contractions written out."""
    for part, pattern, written_out in _CONTRACTIONS if "'" in text else ():
        if part in text:
            text = pattern.sub(written_out, text)
    return text


# Contractions that are not English words without their apostrophe ("well", "were", "its" and "id" are words).
_FORMS = (
    "i'm i've don't didn't doesn't can't won't isn't wasn't aren't haven't couldn't wouldn't shouldn't that's what's "
    "he's she's you're they're"
)
_UNMARKED = {word.replace("'", ""): tuple(_written_out(word).split()) for word in _FORMS.split()}
_UNMARKED["cannot"] = ("can", "not")


@lru_cache(maxsize=1 << 16)
def _canonical(token: str) -> tuple[str, ...]:
    """One raw token as the tokens that stand for it: written out, digits as 0, a drawn-out letter at most twice."""
    if token in _UNMARKED:
        return _UNMARKED[token]
    if token[0] in ".!?":
        kind = "?" if "?" in token else token[0]
        return (kind if kind != "." or len(token) == 1 else "..",)
    if token.isdigit():
        return ("0",)
    return (_REPEATED.sub(r"\1\1", token),)


def tokenise(text: str) -> list[str]:
    """
    Splits text, natural or tokenised, into the tokens of the features; lone surrogates are read as U+FFFD.

    ```python
    >>> tokenise("I'm sorry, that's awful!!")
    ['i', 'am', 'sorry', ',', 'that', 'is', 'awful', '!']
    ```
    """
    return _tokens(_plain(_normal(text)))


def _normal(text: str) -> str:
    text = text[:MAX_CHARACTERS]
    if text.isascii():
        return text
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return unicodedata.normalize("NFKC", text.translate(_QUOTES))


def _plain(text: str) -> str:
    return " ".join(_split(text))


def _split(text: str) -> list[str]:
    # "_comma_" stands for a comma in the original files of EmpatheticDialogues
    return text.lower().replace("`", "'").replace("_comma_", ",").split()


def _tokens(plain: str) -> list[str]:
    return list(chain.from_iterable(map(_canonical, _TOKEN.findall(_written_out(plain)))))


class _Known(dict[str, int]):
    """Names by number; a new one gets its number from a function."""

    def __init__(self, number: Callable[[str], int]) -> None:
        super().__init__()
        self._number = number

    def __missing__(self, name: str) -> int:
        return self._number(name)


class Vocabulary:
    """The tokens that were read so far, by number, and those of each word of a text with its punctuation."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.lock = RLock()
        self._numbers = _Known(self._add_token)
        self._words = _Known(self._add_word)
        self._ends, self._made = array("q", [0, 0]), array("q")  # word i has the tokens _made[_ends[i] : _ends[i + 1]]
        self._words["\0"] = 0  # it begins a text, and has no tokens

    def _add_token(self, token: str) -> int:
        with self.lock:
            if token not in self._numbers:
                self.tokens.append(token)
                self._numbers[token] = len(self.tokens) - 1
            return self._numbers[token]

    def _add_word(self, word: str) -> int:
        found = _NUMBER.sub("0", word)
        if found != word:  # each number is another word, and the same token
            return self._words[found]
        with self.lock:
            if word not in self._words:
                self._made.extend(map(self._numbers.__getitem__, _tokens(word)))
                self._ends.append(len(self._made))
                self._words[word] = len(self._ends) - 2
            return self._words[word]

    def read(self, texts: Sequence[str]) -> Tokens:
        """[`tokenise`] of many texts at once."""
        texts = [t if len(t) <= MAX_CHARACTERS and t.isascii() else _normal(t) for t in texts]
        words = _split(" \0 ".join(["", *texts]))
        whole = given = " ".join(words)
        if whole.count("\0") != len(texts):
            return self.number(map(_tokens, map(_plain, texts)))
        if " '" in whole:
            whole = _APOSTROPHE.sub("'", whole)
        if " n't" in whole:
            whole = _APART.sub("n't", whole)
        for apart in (". .", "! !", "! ?", "? !", "? ?"):
            while apart in whole:
                whole = whole.replace(apart, apart[0] + apart[2])
        words = words if whole is given else whole.split()
        found = np.fromiter(map(self._words.__getitem__, words), np.int64, len(words))
        with self.lock:
            made, ends = np.array(self._made), np.array(self._ends)
        tokens = Tokens(self, made, np.diff(ends)).chosen(found)
        counts = np.diff(np.append(np.flatnonzero(found == 0), len(found)))  # words, with the null character
        return Tokens(self, tokens.numbers, sums(tokens.lengths, counts))

    def number(self, texts: Iterable[Sequence[str]]) -> Tokens:
        """Texts that are tokens already."""
        texts = list(texts)
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        numbers = map(self._numbers.__getitem__, chain.from_iterable(texts))
        return Tokens(self, np.fromiter(numbers, np.int64, int(lengths.sum())), lengths)

    @property
    def is_full(self) -> bool:
        """Whether it is time for a new one."""
        return len(self._words) > _MOST_WORDS


_NUMBER = re.compile(r"(?<![^\W_])[0-9]+(?![^\W_])")
_APOSTROPHE = re.compile(r" '(?<!\0 ')(?=(?:s|m|re|ve|ll|d|t)\b)")
_APART = re.compile(r" n't(?<=\b(?:ca|wo|ai) n't)\b")
_MOST_WORDS = 1 << 17
_vocabulary = Vocabulary()


def vocabulary() -> Vocabulary:
    """The vocabulary of this process; a new one once it holds very many words."""
    global _vocabulary
    if _vocabulary.is_full:
        _vocabulary = Vocabulary()
    return _vocabulary


class Tokens(Sequence[list[str]]):
    """
    Texts as tokens, laid end to end as `numbers` of a vocabulary; each text is a list of tokens.

    Args:
        vocabulary ([`Vocabulary`]): Of the numbers.
        numbers (`np.ndarray` of shape `(tokens,)`): All tokens, text after text.
        lengths (`np.ndarray` of shape `(n,)`): How many tokens each text has.
    """

    def __init__(self, vocabulary: Vocabulary, numbers: np.ndarray, lengths: np.ndarray) -> None:
        self.vocabulary, self.numbers, self.lengths = vocabulary, numbers, lengths

    @cached_property
    def starts(self) -> np.ndarray:
        """Where each text starts."""
        return np.cumsum(self.lengths) - self.lengths

    def chosen(self, which: np.ndarray) -> Tokens:
        """The texts at these positions."""
        lengths = self.lengths[which]
        shift = self.starts[which] - (np.cumsum(lengths) - lengths)
        return Tokens(self.vocabulary, self.numbers[np.repeat(shift, lengths) + np.arange(lengths.sum())], lengths)

    def part(self, texts: slice) -> Tokens:
        """Neighbouring texts."""
        first, last, _ = texts.indices(len(self))
        bounds = np.append(self.starts, len(self.numbers))
        return Tokens(self.vocabulary, self.numbers[bounds[first] : bounds[last]], self.lengths[texts])

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, i: int) -> list[str]: ...
    @overload
    def __getitem__(self, i: slice) -> list[list[str]]: ...
    def __getitem__(self, i: int | slice) -> list[str] | list[list[str]]:
        if isinstance(i, slice):
            return [self[n] for n in range(*i.indices(len(self)))]
        start, tokens = self.starts[i], self.vocabulary.tokens
        return [tokens[number] for number in self.numbers[start : start + self.lengths[i]].tolist()]


class TokenValues:
    """What a function says of each token of a vocabulary; each token is asked once."""

    def __init__(self, of: Callable[[str], Any], kind: Any, width: tuple[int, ...] = ()) -> None:
        self._of, self._kind, self._width = of, kind, width
        self._vocabulary: Vocabulary | None = None

    def of(self, tokens: Tokens) -> np.ndarray:
        """The value of each token, text after text: `(tokens, *width)`."""
        vocabulary = tokens.vocabulary
        with vocabulary.lock:
            if self._vocabulary is not vocabulary:
                self._vocabulary, self._values = vocabulary, np.empty((0, *self._width), self._kind)
            if new := vocabulary.tokens[len(self._values) :]:
                made = np.array([self._of(token) for token in new], self._kind)
                self._values = np.concatenate([self._values, made])
            return self._values[tokens.numbers]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_vocabulary": None}


def sums(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The sums of whole numbers, `(sum of lengths, ...)`, over stretches of these lengths: `(n, ...)`."""
    upto = np.zeros((len(values) + 1, *values.shape[1:]), np.int64)
    np.cumsum(values, axis=0, out=upto[1:])
    ends = np.cumsum(lengths)
    return upto[ends] - upto[ends - lengths]


@lru_cache(maxsize=1 << 16)
def word_hash(token: str) -> int:
    """A 32-bit number for a token: CRC-32, the same on every platform and in every Python."""
    return zlib.crc32(token.encode("utf-8"))


def char_buckets(token: str) -> np.ndarray:
    """The buckets of one token's character n-grams, `(k,)` with `k >= 1` for every token."""
    word = f"<{token[:40]}>"
    grams = [word[i : i + n].encode("utf-8") for n in CHAR_LENGTHS for i in range(len(word) - n + 1)]
    return _mix(np.array([zlib.crc32(gram) for gram in grams], np.uint32)) & np.uint32((1 << CHAR_BITS) - 1)


def _mix(x: np.ndarray) -> np.ndarray:
    """Spreads the bits of 32-bit hashes (the finaliser of MurmurHash3), so that their low bits make fair buckets."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


GLAD = (
    "amazing awesome beautiful best blessed celebrate celebrated cool delicious delighted ecstatic enjoy enjoyed "
    "enjoying excellent excited exciting fantastic fun funny glad good grateful great happier happiest happy "
    "hilarious hopeful joy laugh laughed love loved lovely lucky nice passed perfect pleased promoted promotion "
    "proud ready relieved smile smiled succeeded success super surprised thankful thrilled trust vacation win "
    "winning won wonderful wow yay"
)
SAD = (
    "abused accident afraid alone angry annoyed annoying anxious ashamed attacked awful bad betrayed broke broken "
    "bully burned cancer cheated crashed cried cry crying depressed devastated die died disappointed disgusted "
    "disgusting divorce dying embarrassed embarrassing evil fail failed failing fear fired flunked frightened "
    "frustrated frustrating funeral furious gross guilty hate hated horrible horrified hospital hurt ill injured "
    "jealous lied lonely lost mad miserable miss missed nervous pain painful poor regret robbed ruined rude sad "
    "scared scary scream shocked sick sorry stole stolen stress stressed struggling stuck suffering terrible "
    "terrified threw tragic ugly unfair unhappy upset worried worry worse worst wreck wrong"
)
_FEELINGS = dict.fromkeys(GLAD.split(), 1) | dict.fromkeys(SAD.split(), -1)


def polarity(tokens: Sequence[str]) -> int:
    """How many more glad than sad words there are; a word after "not" counts for nothing."""
    return sum(
        _FEELINGS.get(token, 0) for before, token in zip(("", *tokens), tokens, strict=False) if before != "not"
    )


class Words(NamedTuple):
    """The words of `n` texts, laid end to end: their hashes, and how many belong to each text."""

    hashes: np.ndarray
    lengths: np.ndarray


class Grams(NamedTuple):
    """Hashed n-grams of `n` texts: the text (`rows`) and the bucket of each, and how many each text has."""

    rows: np.ndarray
    buckets: np.ndarray
    counts: np.ndarray


_hashes = TokenValues(word_hash, np.uint32)


def to_words(texts: Sequence[Sequence[str]]) -> Words:
    """Hashes tokenised texts."""
    tokens = texts if isinstance(texts, Tokens) else vocabulary().number(texts)
    return Words(_hashes.of(tokens), tokens.lengths)


def to_grams(words: Words, longest: int) -> Grams:
    """
    Buckets of all n-grams of 1 to `longest` words within one text, by length, then position.

    In this order, sums over them do not depend on other texts.
    """
    row = np.repeat(np.arange(len(words.lengths)), words.lengths)
    gram, rows, buckets = words.hashes, [row], [_mix(words.hashes)]
    for n in range(2, longest + 1):
        gram = _mix(gram[:-1] * np.uint32(0x9E3779B1) + words.hashes[n - 1 :])
        inside = row[n - 1 :] == row[: len(row) - n + 1]
        rows.append(row[n - 1 :][inside])
        buckets.append(gram[inside])
    joined = np.concatenate(rows)
    mask = np.uint32((1 << WORD_BITS) - 1)
    return Grams(joined, np.concatenate(buckets) & mask, np.bincount(joined, minlength=len(words.lengths)))


def surface(reply: Words, turn: Words, utterances: np.ndarray) -> np.ndarray:
    """
    The features that are not words, `(n, SURFACE)`: lengths, punctuation, who is spoken of, place in the dialogue.

    `reply` and `turn` are the words of `n` replies and of the turns before; `utterances` is each context's length.
    """

    rows = {id(words): np.repeat(np.arange(len(words.lengths)), words.lengths) for words in (reply, turn)}

    def count(words: Words, *tokens: str) -> np.ndarray:
        hit = np.isin(words.hashes, np.array([word_hash(token) for token in tokens], np.uint32))
        return np.bincount(rows[id(words)][hit], minlength=len(words.lengths))

    n = np.maximum(reply.lengths, 1)
    long = _LOG1P[np.minimum(reply.lengths, LONGEST)]
    asks = count(reply, "?")
    last = np.zeros(len(n), np.uint32)
    some = reply.lengths > 0
    last[some] = reply.hashes[np.cumsum(reply.lengths)[some] - 1]
    later = utterances > 1
    columns = (
        long,
        long**2 / 5,
        reply.lengths <= 4,
        asks > 0,
        asks > 1,
        (asks > 0) & (reply.lengths <= 8),
        (asks > 0) * long,
        (asks > 0) & later,
        last == word_hash("?"),
        count(reply, "!") > 0,
        np.minimum(count(reply, ".", ".."), 3),
        np.minimum(count(reply, ","), 3),
        4 * count(reply, "i", "my", "me") / n,
        4 * count(reply, "you", "your") / n,
        later,
        np.minimum(utterances, 7) / 3,
        _LOG1P[np.minimum(turn.lengths, LONGEST)],
        count(turn, "?") > 0,
        count(turn, "!") > 0,
    )
    return np.stack(columns).astype(np.float64).T  # each feature is one stretch of memory


class Features(NamedTuple):
    """All features of `n` dialogues: replies as tokens, n-grams and words of each of [`WORD_BLOCKS`], [`surface`]."""

    replies: Tokens
    grams: dict[str, Grams]
    surface: np.ndarray
    words: dict[str, Words]


def extract(dialogues: Sequence[Dialogue]) -> Features:
    """The features of dialogues; each row depends on its own dialogue only."""
    contexts, n = [dialogue.context for dialogue in dialogues], len(dialogues)
    before = [context[-1 - EARLIER_UTTERANCES : -1] for context in contexts]
    said = [dialogue.response for dialogue in dialogues]
    said += [context[-1] if context else "" for context in contexts]
    said += chain.from_iterable(before)
    texts = list(dict.fromkeys(said))  # most utterances are in several dialogues
    place = dict(zip(texts, range(len(texts)), strict=True)).__getitem__
    found = vocabulary().read(texts).chosen(np.fromiter(map(place, said), np.int64, len(said)))
    replies, turns, earlier = (found.part(part) for part in (slice(n), slice(n, 2 * n), slice(2 * n, None)))
    joined = Tokens(
        found.vocabulary, earlier.numbers, sums(earlier.lengths, np.array(list(map(len, before)), np.int64))
    )
    words = {REPLY: to_words(replies), TURN: to_words(turns), EARLIER: to_words(joined)}
    grams = {block: to_grams(words[block], longest) for block, longest in WORD_BLOCKS.items()}
    utterances = np.fromiter(map(len, contexts), np.int64, len(contexts))
    return Features(replies, grams, surface(words[REPLY], words[TURN], utterances), words)
