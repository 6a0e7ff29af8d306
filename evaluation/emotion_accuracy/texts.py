"""Text inputs of a metric: tokenizers, checks, and the mixin that applies the checks to an `evaluate` module.

`evaluate.load` copies one metric's folder into its cache and imports it there, so a metric can share code with its
neighbours only as a copy of its own. This file is the same, byte for byte, in every text metric's folder (a test
compares them). It imports neither `evaluate` nor, until it is asked for, nltk.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from evaluate import Metric
else:
    Metric = object  # a mixin does not need its neighbour to be imported

Tokenizer = str | Callable[[str], Sequence[str]]
TOKENIZERS = ("whitespace", "nltk")


def get_tokenizer(tokenizer: Tokenizer) -> Callable[[str], Sequence[str]]:
    """
    The function from a text to its tokens.

    Args:
        tokenizer (`str` or `Callable`):
            `"whitespace"`: `str.split`, case kept. `"nltk"`: the text in lower case, cut by nltk's
            `NLTKWordTokenizer`, which needs no data files; unlike `nltk.word_tokenize` it does not split the text into
            sentences first, so of several full stops only the last is a token of its own, unless the text comes
            tokenised. A callable is returned as it is.

    Returns:
        `Callable[[str], Sequence[str]]`

    Raises:
        ValueError: an unknown name; the message lists the valid ones.
        ImportError: `"nltk"` is asked for and is not installed.
    """
    if callable(tokenizer):
        return tokenizer
    if tokenizer == "whitespace":
        return str.split
    if tokenizer == "nltk":
        try:
            from nltk.tokenize import NLTKWordTokenizer
        except ImportError as error:
            raise ImportError(
                "tokenizer='nltk' needs nltk, which is not installed. Install it with: pip install nltk"
            ) from error
        tokenize = NLTKWordTokenizer().tokenize
        return lambda text: tokenize(text.lower())
    raise ValueError(f"unknown tokenizer {tokenizer!r}; valid: {', '.join(TOKENIZERS)}, or a callable.")


def tokenize_all(texts: Iterable[str], tokenizer: Tokenizer) -> list[list[str]]:
    """The tokens of each text, in order; `tokenizer` as in [`get_tokenizer`]."""
    tokenize = get_tokenizer(tokenizer)
    return [list(tokenize(text)) for text in texts]


def check_texts(name: str, texts: Any, start: int = 0) -> list[str]:
    """
    `texts` as a list, refused unless it is a non-empty collection of strings.

    Args:
        name (`str`):
            What the texts are called in the message.
        texts (`Iterable[str]`):
            The texts.
        start (`int`, *optional*, defaults to `0`):
            How many samples were added before these: the message counts from there.

    Raises:
        ValueError: no texts, or one text where several are expected.
        TypeError: something in `texts` is not a string; the message gives its index.
    """
    if texts is None:
        raise ValueError(f"{name}: none given.")
    if isinstance(texts, str):
        raise TypeError(f"{name} must be a list of strings, got one string: {texts!r}. Wrap it in a list.")
    if not isinstance(texts, Iterable):
        raise TypeError(f"{name} must be a list of strings, got {type(texts).__name__}.")
    texts = list(texts)
    if not texts:
        raise ValueError(f"{name}: 0 texts given, at least 1 needed.")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{start + i}] must be a string, got {type(text).__name__}: {text!r}.")
    return texts


def check_references(name: str, references: Any, start: int = 0) -> list[list[str]]:
    """
    References as a list of lists: a plain string stands for a list of one.

    Args, errors: as [`check_texts`]; besides, a sample with no reference at all raises a `ValueError`.
    """
    if references is None or isinstance(references, str) or not isinstance(references, Iterable):
        return [check_texts(name, references, start)]  # raises
    references = list(references)
    if not references:
        raise ValueError(f"{name}: 0 texts given, at least 1 needed.")
    return [
        check_texts(f"{name}[{start + i}]", [item] if isinstance(item, str) else item)
        for i, item in enumerate(references)
    ]


def check_contexts(name: str, contexts: Any, start: int = 0) -> list[list[Any]]:
    """
    What came before each reply, as a list of turns, oldest first: texts, or messages with `role` and `content`.

    Args, errors: as [`check_texts`]; a plain string stands for a dialogue of that one turn, and one without any turn
    raises a `ValueError`.
    """
    if contexts is None or isinstance(contexts, str) or not isinstance(contexts, Iterable):
        return [check_texts(name, contexts, start)]  # raises
    contexts = [[context] if isinstance(context, str) else context for context in contexts]
    if not contexts:
        raise ValueError(f"{name}: 0 texts given, at least 1 needed.")
    for i, context in enumerate(contexts, start=start):
        if not isinstance(context, list | tuple):
            raise TypeError(f"{name}[{i}] must be a list of turns, got {type(context).__name__}: {context!r}.")
        if not context:
            raise ValueError(f"{name}[{i}]: 0 turns given, at least 1 needed.")
        for turn in context:
            if not isinstance(turn, str) and not (isinstance(turn, Mapping) and {"role", "content"} <= set(turn)):
                raise TypeError(f"{name}[{i}] must hold texts, or messages with 'role' and 'content', got {turn!r}.")
    return [[turn if isinstance(turn, str) else dict(turn) for turn in context] for context in contexts]


def check_same_length(**columns: Sequence[Any]) -> None:
    """
    Raises:
        ValueError: the columns are of different lengths; the message gives each.
    """
    if len({len(column) for column in columns.values()}) > 1:
        counts = " and ".join(f"{len(column)} {name}" for name, column in columns.items())
        raise ValueError(f"every prediction needs its reference: got {counts}.")


def from_json(contexts: Iterable[str]) -> list[list[Any]]:
    """Contexts as they were given, from the column that [`CheckedInputs`] keeps."""
    return [json.loads(context) for context in contexts]


class CheckedInputs(Metric):
    """
    Mixin for an `evaluate.Metric` on texts: refuses what `evaluate` would store as something else (a number or None
    becomes its string), an empty corpus, and unknown options, each with a message that says so.

    The features of the metric say which columns there are. `several_references = True` says that each sample may have
    a list of references. A column `contexts` holds what came before each reply, and is kept as JSON ([`from_json`]).
    """

    several_references = False

    def _checked(self, name: str, values: Any) -> list[Any]:
        if name == "contexts":
            return [json.dumps(context) for context in check_contexts(name, values, len(self))]
        if name == "references" and self.several_references:
            return check_references(name, values, len(self))
        return check_texts(name, values, len(self))

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Adds samples: `predictions` and the metric's other columns, each a list with one entry a sample."""
        given = {"predictions": predictions, "references": references, **kwargs}
        names = self._feature_names()
        columns = {name: self._checked(name, given.get(name)) for name in names}
        check_same_length(**columns)
        others = {name: value for name, value in kwargs.items() if name not in names}  # which the library refuses
        super().add_batch(**columns, **others)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Adds one sample: `prediction`, `reference` where the metric has them, and its other columns by name."""
        given = {"predictions": prediction, "references": reference, **kwargs}
        self.add_batch(**{name: [given[name]] for name in self._feature_names() if name in given})

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, Any] | None:
        """Computes the metric over the samples added so far and those given here."""
        names = self._feature_names()
        given = {"predictions": predictions, "references": references, **kwargs}
        columns = {name: given.get(name) for name in names}
        if all(column is None for column in columns.values()) and len(self) == 0:
            raise ValueError("no samples: 0 were added, and none were given to compute.")
        options = [name for name in inspect.signature(self._compute).parameters if name not in names]
        chosen = {name: value for name, value in kwargs.items() if name not in names}
        for name in chosen:
            if name not in options:
                raise TypeError(f"unknown option {name!r}; valid: {', '.join(options) or 'none'}.")
        return super().compute(**columns, **chosen)
