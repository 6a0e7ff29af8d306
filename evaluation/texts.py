"""The inputs of metrics: tokenizers, and checks that refuse what is not text and name its index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ee_trl.errors import require


Tokenizer = str | Callable[[str], Sequence[str]]
TOKENIZERS = ("whitespace", "nltk")


def get_tokenizer(tokenizer: Tokenizer) -> Callable[[str], Sequence[str]]:
    """The function from a text to its tokens."""
    if callable(tokenizer):
        return tokenizer
    if tokenizer == "whitespace":
        return str.split
    if tokenizer == "nltk":
        module = require("nltk.tokenize", extra="metrics", purpose="tokenizer='nltk'")
        tokenize = module.NLTKWordTokenizer().tokenize
        return lambda text: tokenize(text.lower())
    raise ValueError(f"unknown tokenizer {tokenizer!r}; valid: {', '.join(TOKENIZERS)}, or a callable.")


def tokenize_all(texts: Iterable[str], tokenizer: Tokenizer) -> list[list[str]]:
    """The tokens of each text, in order; `tokenizer` as in [`get_tokenizer`]."""
    tokenize = get_tokenizer(tokenizer)
    return [list(tokenize(text)) for text in texts]


def check_list(name: str, values: Any, what: str = "a list of strings") -> list[Any]:
    """The values as a list; raises if there are none, or if one text is given instead of a list."""
    if values is None:
        raise ValueError(f"{name}: none given.")
    if isinstance(values, str):
        raise TypeError(f"{name} must be {what}, got one string: {values!r}. Wrap it in a list.")
    if isinstance(values, Mapping) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be {what}, got {type(values).__name__}.")
    found = list(values)
    if not found:
        raise ValueError(f"{name}: 0 texts given, at least 1 needed.")
    return found


def check_texts(name: str, texts: Any, start: int = 0) -> list[str]:
    """The texts as a list."""
    texts = check_list(name, texts)
    for i, text in enumerate(texts, start):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{i}] must be a string, got {type(text).__name__}: {text!r}.")
    return texts


def check_references(name: str, references: Any, start: int = 0) -> list[list[str]]:
    """A list of at least one reference for each sample; a plain string counts as a list of one."""
    return [
        check_texts(f"{name}[{i}]", [item] if isinstance(item, str) else item)
        for i, item in enumerate(check_list(name, references), start)
    ]


def check_contexts(name: str, contexts: Any, start: int = 0) -> list[list[Any]]:
    """
    What came before each reply, as a list of turns, oldest first: texts, or messages with `role` and `content`.

    A plain string counts as a dialogue of that one turn. A dialogue without a turn raises a `ValueError`.
    """
    found = [[context] if isinstance(context, str) else context for context in check_list(name, contexts)]
    for i, context in enumerate(found, start):
        if not isinstance(context, list | tuple):
            raise TypeError(f"{name}[{i}] must be a list of turns, got {type(context).__name__}: {context!r}.")
        if not context:
            raise ValueError(f"{name}[{i}]: 0 turns given, at least 1 needed.")
        for turn in context:
            if not isinstance(turn, str) and not (isinstance(turn, Mapping) and {"role", "content"} <= set(turn)):
                raise TypeError(f"{name}[{i}] must hold texts, or messages with 'role' and 'content', got {turn!r}.")
    return [[turn if isinstance(turn, str) else dict(turn) for turn in context] for context in found]


Check = Callable[[str, Any, int], list[Any]]
CHECKS: Mapping[str, Check] = {"predictions": check_texts, "references": check_texts, "contexts": check_contexts}
"""The columns that a metric may take, and what checks each."""


def check_columns(columns: Mapping[str, Any], checks: Mapping[str, Check] = CHECKS, start: int = 0) -> list[list[Any]]:
    """The columns of a metric, each checked, in order; error messages count the samples from `start`."""
    found = [checks[name](name, values, start) for name, values in columns.items()]
    if len(set(map(len, found))) > 1:
        counts = " and ".join(f"{len(values)} {name}" for name, values in zip(columns, found, strict=True))
        raise ValueError(f"every sample needs an entry in each column: got {counts}.")
    return found
