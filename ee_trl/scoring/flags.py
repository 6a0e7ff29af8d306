"""Flags by rule: replies that repeat themselves or an earlier turn, and replies that are not English.

The rules read tokens of [`~ee_trl.scoring.features.tokenise`]. Known English words are a Bloom filter of 32 kB, which
`scripts/make_known_words.py` writes; it gives an unknown word out as known about once in a thousand times.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from ..axes import NOT_ENGLISH
from ..data.dialogue import Dialogue
from ..errors import ScorerError, check_choice
from .base import ScoredBatch
from .features import Tokens, TokenValues, sums, tokenise, vocabulary


REPETITIVE = "repetitive"
RULE_FLAGS = (REPETITIVE, NOT_ENGLISH)
"""The flags that the rules give."""

KNOWN_WORDS = Path(__file__).resolve().parents[1] / "assets" / "english" / "known_words.bin"
BITS = 18  # log2 of the number of bits of the filter
FEWEST_WORDS = 3  # a reply of fewer words says nothing of its language
FEWEST_REPEATED = 5  # words of a reply that may count as repeated; shorter ones ("Oh no!") recur in any talk
REPEATED, COPIED = 0.35, 0.75  # share of a reply's pairs of words that recur in it; of its triples that a turn has

# English words that are words of other languages as well: they say nothing of the language
_SHARED = """
a also am an arm art as at ate bad bald ban bin bra chat come die do fast fort for gift has hat hell hem her him hot in
is it kind late mal man me mode most must net no not note of on or pan pole pore pour rat rest rot sale she sit so son
sore sort sin ten than to was we wild war
"""
_SHARED_WORDS = frozenset(_SHARED.split())
_STRICT_SYMBOLS, _SYMBOLS = frozenset("={}[]<>\\|+$&"), frozenset("={}[]<>\\|+$&();#^~_/")
# what a change of speaker changes: "my dog is ill" becomes "your dog is ill"
_SPEAKERS = {"i": "you", "me": "you", "my": "your", "mine": "yours", "myself": "yourself"}
_SPEAKERS |= dict.fromkeys(("am", "is", "was", "were"), "are")

# what a token says of the language is one number with these fields of 14 bits, so that a reply's is a sum
_LETTERS, _KNOWN, _WORD, _SCRIPT, _TELLING, _SYMBOL, _STRICT = (1 << 14 * n for n in range(7))
_FIELD, _HALF = (1 << 14) - 1, 4 * 14  # the number is kept in two halves, the first of four fields


def bits_of(word: str) -> Iterable[int]:
    """The three bits of a word in the filter."""
    number = zlib.crc32(word.encode("utf-8")) | zlib.adler32(word.encode("utf-8")) << 32
    for n in range(3):
        yield (number * (0x9E3779B97F4A7C15 + 2 * n) >> 29) & ((1 << BITS) - 1)


@cache
def _filter() -> bytes:
    return KNOWN_WORDS.read_bytes()


@lru_cache(maxsize=1 << 16)
def _evidence(token: str) -> int:
    """The fields: telling letters, those known; words, those of other scripts, telling ones; symbols, strict ones."""
    if not token.isalpha():
        return (token in _SYMBOLS) * _SYMBOL + (token in _STRICT_SYMBOLS) * _STRICT
    if not ("a" <= token[0] <= "\u024f" or "\u1e00" <= token[0] <= "\u1eff"):
        return _WORD + _SCRIPT + _TELLING + _LETTERS
    if token in _SHARED_WORDS or len(token) == 1:
        return _WORD
    letters = min(len(token), 7)  # long names and slips count no more than long words
    data = _filter()
    known = all(data[bit >> 3] >> (bit & 7) & 1 for bit in bits_of(token))
    return _WORD + _TELLING + (_LETTERS + known * _KNOWN) * letters


def _halves(token: str) -> tuple[int, int]:
    found = _evidence(token)
    return found & ((1 << _HALF) - 1), found >> _HALF


def check_other_language(other_language: str) -> str:
    """
    What becomes of replies that are not English: `"flag"` scores and flags them, `"unscored"` gives them no score.

    Returns what the choice adds to a scorer's fingerprint.
    """
    check_choice("other_language", other_language, ("flag", "unscored"), ScorerError)
    return "" if other_language == "flag" else "/other_language:unscored"


class RuleFlags:
    """Flags dialogues by rule; call it with the dialogues and the tokens of their replies."""

    def __init__(self, other_language: str = "flag") -> None:
        self._unscored = other_language == "unscored"
        self._evidence = TokenValues(_halves, np.int64, (2,))
        self._letters = TokenValues(len, np.int64)
        self._is_word = TokenValues(_is_word, bool)

    def applied(
        self, batch: ScoredBatch, dialogues: Sequence[Dialogue], replies: Sequence[Sequence[str]]
    ) -> ScoredBatch:
        """The batch with these flags beside its own; with no scores where it is not English and should have none."""
        pairs = zip(self(dialogues, replies), batch.flags or [None] * len(dialogues), strict=True)
        flags = [rule if rule == NOT_ENGLISH else own or rule for rule, own in pairs]
        if not self._unscored or NOT_ENGLISH not in flags:
            return replace(batch, flags=flags)
        out = np.array([flag == NOT_ENGLISH for flag in flags])
        reasons = [NOT_ENGLISH if foreign else None for foreign in out]
        return replace(batch, scores=np.where(out[:, None], np.nan, batch.scores), reasons=reasons, flags=flags)

    def __call__(self, dialogues: Sequence[Dialogue], replies: Sequence[Sequence[str]]) -> list[str | None]:
        """For each dialogue one of [`RULE_FLAGS`], or `None`."""
        tokens = replies if isinstance(replies, Tokens) else vocabulary().number(replies)
        flags: list[str | None] = [None] * len(dialogues)
        low, high = sums(self._evidence.of(tokens), tokens.lengths).T
        doubtful = (2 * (low // _KNOWN & _FIELD) < (low & _FIELD)) | (high >= _SYMBOL >> _HALF)
        for i in np.flatnonzero(doubtful).tolist():
            if self._is_foreign(dialogues[i], int(tokens.lengths[i]), int(low[i]) + (int(high[i]) << _HALF)):
                flags[i] = NOT_ENGLISH
        others = np.flatnonzero((tokens.lengths >= FEWEST_REPEATED) & np.array([flag is None for flag in flags], bool))
        tokens = tokens.chosen(others)
        looks = zip(others.tolist(), self._may_repeat(tokens).tolist(), self._longest_of_halves(tokens), strict=True)
        for n, (i, again, (one, other)) in enumerate(looks):
            dialogue = dialogues[i]
            least = 0.6 * len(dialogue.response)
            # two quick looks, since few turns are copied: a copy has one of these words, and about half of all words
            turns = [turn.lower() for turn in dialogue.context if len(turn) > least]
            turns = [turn for turn in turns if one in turn or other in turn]
            if (again and _repeats_itself(tokens[n])) or (turns and _copies(tokens[n], turns)):
                flags[i] = REPETITIVE
        return flags

    def _may_repeat(self, tokens: Tokens) -> np.ndarray:
        """Which texts repeat themselves, see [`_repeats_itself`]; pairs of words that share a hash may add some."""
        is_word = self._is_word.of(tokens)
        counts = sums(is_word, tokens.lengths)
        words, texts = tokens.numbers[is_word], np.repeat(np.arange(len(tokens)), counts)
        bits = np.uint32(32 - len(tokens).bit_length())  # of a pair's hash; those above number its text
        hashes = (words[:-1] * 0x9E3779B1 + words[1:]).astype(np.uint32) * np.uint32(0x85EBCA6B) >> (32 - bits)
        pairs = np.sort((texts[1:].astype(np.uint32) << bits | hashes)[texts[1:] == texts[:-1]])
        again = np.bincount(pairs[1:][pairs[1:] == pairs[:-1]] >> bits, minlength=len(tokens))
        return (counts >= FEWEST_REPEATED) & (again >= REPEATED * (counts - 1) - 1e-9)

    def _longest_of_halves(self, tokens: Tokens) -> list[tuple[str, str]]:
        """The longest token of each half of texts that have two tokens or more; of equally long ones the first."""
        if not len(tokens):
            return []
        order = len(tokens.numbers)
        ranks = self._letters.of(tokens) * order + np.arange(order, 0, -1) - 1
        halves = np.stack([tokens.starts, tokens.starts + tokens.lengths // 2], axis=1)
        best = order - 1 - np.maximum.reduceat(ranks, halves.ravel()) % order
        names = [tokens.vocabulary.tokens[number] for number in tokens.numbers[best].tolist()]
        return list(zip(names[::2], names[1::2], strict=True))

    def _is_foreign(self, dialogue: Dialogue, tokens: int, found: int) -> bool:
        """Whether too few of the letters are in known words; a short reply is as foreign as the turn before it."""
        fields = (found // field & _FIELD for field in (_LETTERS, _KNOWN, _WORD, _SCRIPT, _TELLING, _SYMBOL, _STRICT))
        letters, known, words, scripts, telling, symbols, strict = fields
        if 2 * scripts > words:
            return True
        if words < FEWEST_WORDS:
            return bool(telling) and not known and bool(dialogue.context) and self._too_few(dialogue.context[-1])
        if symbols >= (2 if strict else 4) and 5 * symbols >= tokens:  # code
            return True
        least = 0.01 if telling <= 3 else 0.25 if telling <= 5 else 0.4 if telling <= 8 else 0.45
        return telling >= 2 and known < least * letters

    def _too_few(self, turn: str) -> bool:
        reply = tokenise(turn)
        found = sum(map(_evidence, reply))
        return len(reply) >= FEWEST_WORDS and self._is_foreign(Dialogue((), turn, ()), len(reply), found)


def _is_word(token: str) -> bool:
    return token[0].isalnum()


def _words(tokens: Iterable[str]) -> list[str]:
    return [token for token in tokens if _is_word(token)]


def _repeats_itself(reply: Sequence[str]) -> bool:
    """Whether a large share of the reply's pairs of neighbouring words occurred in it before."""
    words = _words(reply)
    pairs = list(zip(words, words[1:], strict=False))
    return len(words) >= FEWEST_REPEATED and 1 - len(set(pairs)) / len(pairs) >= REPEATED


def _copies(reply: Sequence[str], turns: Sequence[str]) -> bool:
    """Whether one of the turns has nearly all of the reply, word by word; who is spoken of may have changed."""
    own = {*reply}
    for turn in turns:
        if 2.5 * len(own.intersection(turn.split())) >= len(own):
            triples = _triples(_words(reply))
            copied = len(triples & _triples(_words(tokenise(turn))))
            if len(triples) >= FEWEST_REPEATED - 2 and copied >= COPIED * len(triples):
                return True
    return False


def _triples(words: Iterable[str]) -> set[tuple[str, ...]]:
    plain = [_SPEAKERS.get(word, word) for word in words]
    return set(zip(plain, plain[1:], plain[2:], strict=False))
