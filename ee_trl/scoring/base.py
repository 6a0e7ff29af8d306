"""The [`Scorer`] protocol (dialogues in, an `(n, 2)` array out), and the spec by which other processes load it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..axes import AXES
from ..data.dialogue import Dialogue, Turns, dialogue_of
from ..errors import FormatError, ScorerError


@runtime_checkable
class Scorer(Protocol):
    """
    Anything that has a `fingerprint` and can `score` dialogues; no base class is needed.

    Attributes:
        fingerprint (`str`):
            Names everything that determines the numbers: kind of scorer, weights, rubric, precision. Two scorers with
            the same fingerprint give the same scores: the score store relies on it. One line, readable, e.g.
            `linear-1/sha256:4f1c0a9b2d3e`.

    Four further attributes are optional. With `score_batches(dialogues)` a scorer gives a [`ScoredBatch`] as soon as
    it is made, in any order, until every dialogue has been in one. `details` names the further columns that its
    batches bring, and `flags` those of [`~ee_trl.axes.FLAGS`] that it may give. `stored = False` says that it is
    cheaper to score a dialogue than to look its score up.
    """

    @property
    def fingerprint(self) -> str:
        """Names everything that determines the numbers."""

    def score(self, dialogues: Sequence[Dialogue]) -> np.ndarray:
        """
        Scores `n` dialogues, each ending in the listener's reply to be judged.

        Returns:
            `np.ndarray` of shape `(n, 2)`, floats in [0, 10]: sensibility, rationality. NaN marks a dialogue that this
            scorer could not score; it is reported as unscored. A row's numbers do not depend on its batch mates.
        """


@dataclass(frozen=True)
class ScoredBatch:
    """The scores of `b` of the dialogues that a scorer was given."""

    indices: Sequence[int]  # which of the dialogues these are, by position
    scores: np.ndarray  # (b, 2): sensibility, rationality; NaN where unscored
    # for each dialogue one of REASONS, or `None` where it has a score; by default "scorer_gave_none"
    reasons: Sequence[str | None] | None = None
    details: Mapping[str, np.ndarray] = field(default_factory=dict)  # further columns of shape (b,), NaN for null
    tokens: int = 0  # tokens of the dialogues' own text
    forward_tokens: int = 0  # tokens that went through the model, with rubric, questions and padding
    flags: Sequence[str | None] | None = None  # for each dialogue one of FLAGS, or `None` where nothing is wrong


class PairScorer:
    """A scorer that also takes pairs of texts, as cross-encoders do."""

    def predict(self, pairs: Sequence[tuple[str | Sequence[Any], str]]) -> np.ndarray:
        """
        Sensibility and rationality in [0, 10] of each pair, shape `(n, 2)`; of one pair `(2,)`. NaN where unscored.

        Args:
            pairs (`Sequence` of `(context, reply)`): The context is a text (the speaker's turn), or a list of turns:
                texts that alternate and end with the speaker's, or messages.
        """
        scorer: Any = self
        if len(pairs) == 2 and isinstance(pairs[1], str):  # one pair
            return self.predict([pairs])[0]
        for pair in pairs:
            if isinstance(pair, str) or len(pair) != 2:
                raise FormatError(
                    f"{pair!r} is not a pair; give pairs of a context and a reply: [('I am sad.', 'Oh.')]"
                )
        return scorer.score([dialogue_of(context, reply) for context, reply in pairs])


class BatchedScorer(PairScorer):
    """A scorer that gives its scores batch by batch; `score` puts them together."""

    def score_batches(self, dialogues: Sequence[Dialogue]) -> Iterator[ScoredBatch]:
        """A batch as soon as it is made, in any order, until every dialogue has been in one."""
        raise NotImplementedError

    def score(self, dialogues: Sequence[Dialogue]) -> np.ndarray:
        """Sensibility and rationality in [0, 10], shape `(n, 2)`; NaN where unscored."""
        scores = np.full((len(dialogues), len(AXES)), np.nan)
        for batch in self.score_batches(dialogues):
            scores[list(batch.indices)] = batch.scores
        return scores


@dataclass(frozen=True)
class ScoringSpec:
    """
    A scorer by name, its options, the path of its score store, and how scores are judged.

    The fields mean what the arguments of [`~ee_trl.EmpathyDataSelector`] mean; `options` are the `scorer_options`.
    """

    scorer: str | os.PathLike[str] | Scorer
    options: Mapping[str, Any] = field(default_factory=dict)
    store: str | None = None
    retry_failures: bool = False
    threshold: tuple[float, float] = (5.0, 5.0)
    ties: str = "drop"
    turns: Turns = "each"


class ScoringSelector(Protocol):
    """What online training needs of a selector; [`EmpathyDataSelector`] is one."""

    @property
    def spec(self) -> ScoringSpec:
        """What it takes to score in another process."""

    def score(self, dataset: Any) -> Any:
        """Adds score columns to a data set, see [`EmpathyDataSelector.score`]."""


def local_device() -> str:
    """Where this process runs a model: its own GPU under a launcher (`"cuda:1"`), else the first GPU, else the CPU."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    rank = os.environ.get("LOCAL_RANK")
    return "cuda" if rank is None else f"cuda:{int(rank) % torch.cuda.device_count()}"


def folder_of(path: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The folder itself, or the folder that a hub id is downloaded to."""
    if Path(path).is_dir():
        if revision is not None:
            raise ScorerError(f"{os.fspath(path)!r} is a folder, which has no revision {revision!r}; leave it out")
        return Path(path)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(os.fspath(path), revision=revision, ignore_patterns=["*.bin", "*.onnx"]))
    except (OSError, ValueError) as error:
        raise ScorerError(f"{os.fspath(path)!r} cannot be loaded: {error}") from error
