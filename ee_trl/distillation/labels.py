"""Which samples a judge should score first, so that a scorer distilled from them needs fewer.

*Diverse* is transductive experimental design (Yu, Bi and Tresp, 2006): each next sample is the one whose label most
reduces a linear model's uncertainty about all others. *Mixed* gives more weight to others that are nearer to the
threshold.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Features, Value

from ..axes import DEFAULT_THRESHOLD, Threshold
from ..data.dialogue import Dialogue, Sample
from ..data.formats import DialogueFormat, recognise
from ..data.reading import open_rows
from ..data.samples import read_samples
from ..data.tables import chosen_rows, features_of, tables_of
from ..errors import FormatError, SelectionError, check_choice, require
from ..scoring import features as ft
from ..scoring.base import Scorer
from ..scoring.conformal import distance_doubt
from ..scoring.kinds import DEFAULT_SCORER
from ..scoring.load import load_scorer
from ..scoring.store import dialogue_key
from . import STRATEGIES


MOST = 10_000
"""At most this many samples, drawn at random, are compared with each other."""

ORDER = "label_order"
"""Column of the chosen samples: 0 for the most wanted."""

_DIMENSIONS = 128
_RIDGE = 10.0
_PURPOSE = "choosing what to label"


def choose_to_label(
    dialogues: Sequence[Dialogue],
    n: int,
    *,
    strategy: str = "mixed",
    scorer: str | os.PathLike[str] | Scorer = DEFAULT_SCORER,
    encoder: str | os.PathLike[str] | None = None,
    labelled: Sequence[Dialogue] = (),
    threshold: Threshold = DEFAULT_THRESHOLD,
    seed: int = 0,
) -> np.ndarray:
    """
    Chooses the samples that a judge should score.

    Args:
        dialogues (`Sequence[Dialogue]`): The dialogues to choose from.
        n (`int`): How many to choose.
        strategy (`str`, *optional*, defaults to `"mixed"`):
            `"random"` (the baseline); `"diverse"` (labels that say most about all other samples); `"mixed"` (labels
            that say most about samples near T by `scorer`); `"uncertain"` (samples nearest to T).
        scorer (`str`, `os.PathLike` or [`Scorer`], *optional*, defaults to [`~ee_trl.scoring.kinds.DEFAULT_SCORER`]):
            Says how near samples are to T; after a first round, take the scorer distilled from it.
        encoder (`str` or `os.PathLike`, *optional*):
            Hub id or folder of a frozen encoder; its vectors say how similar samples are. By default hashed words.
        labelled (`Sequence[Dialogue]`, *optional*): Dialogues with labels; the choice complements them.
        threshold (`float`, pair or mapping, *optional*, defaults to `5.0`): T.
        seed (`int`, *optional*, defaults to `0`): Seed of the random draws.

    Returns:
        `np.ndarray` of shape `(n,)`: indices, the most wanted first.

    Raises:
        [`SelectionError`]: There are fewer dialogues, or the strategy is unknown.
    """
    check_libraries(strategy)
    if not isinstance(n, (int, np.integer)) or not 1 <= n <= len(dialogues):
        raise SelectionError(f"n {n!r} is not a whole number from 1 to {len(dialogues)}, the samples to choose from")
    drawn = np.random.default_rng(seed).permutation(len(dialogues))
    if strategy == "random":
        return drawn[:n]
    doubt = np.ones(len(dialogues))
    if strategy != "diverse":
        doubt = distance_doubt(np.asarray(load_scorer(scorer).score(dialogues), float), threshold)
    if strategy == "uncertain":
        return np.argsort(-doubt, kind="stable")[:n]
    among = drawn[: max(MOST, n)]
    both = [*(dialogues[int(i)] for i in among), *list(labelled)[:MOST]]
    vectors = reduced(encoder_features(both, encoder), seed) if encoder else hashed_features(both, _DIMENSIONS, seed)
    return among[informative(vectors[: len(among)], n, nearness(doubt[among]), vectors[len(among) :])]


def check_libraries(strategy: str) -> None:
    """Raises for an unknown strategy, or where a library is missing that it needs."""
    check_choice("strategy", strategy, STRATEGIES, SelectionError)
    if strategy in ("diverse", "mixed"):
        require("sklearn.decomposition", extra="report", purpose=_PURPOSE)


def nearness(doubt: np.ndarray) -> np.ndarray:
    """How much a sample counts, by its doubt: 1 at T, about a seventh at a standard deviation from it."""
    away = 1 - np.minimum(doubt, 1)
    spread = away.std()
    return np.exp(-2 * (away / spread) ** 2) if spread > 0 else np.ones(len(doubt))


def informative(vectors: np.ndarray, n: int, weights: np.ndarray, labelled: np.ndarray | None = None) -> np.ndarray:
    """
    Takes, one by one, the sample whose label most lowers the weighted mean variance of a linear model's predictions.

    The arguments: the samples' vectors `(m, d)`, the weight of each prediction `(m,)`, and the vectors of labelled
    samples `(k, d)`. Returns `n` indices, in the order in which they were chosen.
    """
    x = _scaled(np.concatenate([vectors, vectors[:0] if labelled is None else labelled]))
    m = len(vectors)
    share = weights / weights.sum()
    wanted = (x[:m] * share[:, None].astype(np.float32)).T @ x[:m]  # (d, d): the directions that are asked about
    z = x / np.float32(_RIDGE)  # rows of x times the covariance of the model's weights
    z_wanted = z @ wanted
    variance = (z * x).sum(axis=1)
    free = np.arange(len(x)) < m
    chosen: list[int] = []
    for step in range(n + len(x) - m):
        if step < len(x) - m:
            i = m + step
        else:
            gain = np.where(free, (z_wanted * z).sum(axis=1) / (1 + variance), -np.inf)
            i = int(gain.argmax())
            chosen.append(i)
        along, scale = x @ z[i], 1 + variance[i]
        z_wanted -= np.outer(along, z_wanted[i] / scale)
        z -= np.outer(along, z[i] / scale)
        variance -= along**2 / scale
        free[i] = False
    return np.array(chosen, np.intp)


def _scaled(vectors: np.ndarray) -> np.ndarray:
    """Vectors whose entries have a mean square of 1, and a constant."""
    x = vectors / max(float(np.sqrt((vectors**2).mean())), 1e-12)
    return np.concatenate([x, np.ones((len(x), 1))], axis=1).astype(np.float32)


def hashed_features(dialogues: Sequence[Dialogue], dimensions: int = 64, seed: int = 0) -> np.ndarray:
    """Words of the reply and of the turn before it, reduced by a truncated SVD, and surface features, `(n, d)`."""
    decomposition = require("sklearn.decomposition", extra="report", purpose=_PURPOSE)
    sparse = require("scipy.sparse", extra="report", purpose=_PURPOSE)
    found = ft.extract(dialogues)
    parts = []
    for block, weight in ((ft.REPLY, 1.0), (ft.TURN, 0.5)):
        grams = found.grams[block]
        values = weight / np.sqrt(np.maximum(grams.counts, 1))[grams.rows]
        matrix = sparse.csr_matrix((values, (grams.rows, grams.buckets)), (len(dialogues), 1 << ft.WORD_BITS))
        documents = np.bincount(matrix.indices, minlength=matrix.shape[1])
        rarity = np.where(documents > 1, np.log((1 + len(dialogues)) / (1 + documents)), 0.0)
        parts.append(matrix @ sparse.diags_array(rarity))
    joined = sparse.hstack(parts).tocsr()
    joined = joined[:, np.flatnonzero(np.bincount(joined.indices, minlength=joined.shape[1]))]
    if min(joined.shape) <= dimensions + 1:
        words = _unit(joined.toarray())
    else:
        words = _unit(decomposition.TruncatedSVD(dimensions, random_state=seed).fit_transform(joined))
    surface = found.surface - found.surface.mean(axis=0)
    surface /= np.maximum(found.surface.std(axis=0), 1e-9)
    return np.concatenate([words * np.sqrt(words.shape[1]), surface], axis=1)


def encoder_features(dialogues: Sequence[Dialogue], encoder: str | os.PathLike[str]) -> np.ndarray:
    """Mean-pooled embeddings of the context, of the reply, and their product, shape `(n, 3 d)`."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoder)
    model = AutoModel.from_pretrained(encoder, use_safetensors=True).eval()
    read = [" ".join(ft.tokenise(" ".join(d.context))) for d in dialogues]
    contexts = _pooled(model, tokenizer, read, "left")
    replies = [" ".join(ft.tokenise(d.response)) for d in dialogues]
    answers = _pooled(model, tokenizer, replies, "right")
    return np.concatenate([contexts, answers, contexts * answers * np.sqrt(contexts.shape[1])], axis=1)


def _pooled(model: Any, tokenizer: Any, texts: list[str], side: str) -> np.ndarray:
    import torch

    tokenizer.truncation_side = side
    encoded = tokenizer(texts, truncation=True, max_length=128, split_special_tokens=True)["input_ids"]
    order = sorted(range(len(texts)), key=lambda i: -len(encoded[i]))
    found: dict[int, np.ndarray] = {}
    start = 0
    while start < len(order):
        width = len(encoded[order[start]])
        part = order[start : start + max(1, 2_048 // max(width, 1))]
        start += len(part)
        mask = torch.tensor([[1] * len(encoded[i]) + [0] * (width - len(encoded[i])) for i in part])
        ids = torch.tensor([encoded[i] + [tokenizer.pad_token_id or 0] * (width - len(encoded[i])) for i in part])
        with torch.inference_mode():
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        mean = (hidden * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        found |= dict(zip(part, _unit(mean.double().numpy()), strict=True))
    return np.stack([found[i] for i in range(len(texts))])


def reduced(vectors: np.ndarray, seed: int = 0) -> np.ndarray:
    """The vectors reduced to at most 128 main directions."""
    if min(vectors.shape) <= _DIMENSIONS:
        return vectors
    decomposition = require("sklearn.decomposition", extra="report", purpose=_PURPOSE)
    return decomposition.PCA(_DIMENSIONS, random_state=seed).fit_transform(vectors)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


@dataclass(frozen=True)
class Pool:
    """The samples of a data set that a judge could be given."""

    dataset: Any
    fmt: DialogueFormat
    found: list[Sample]  # distinct samples with a reply, their row counted over the whole source
    samples: int  # all, with repetitions and those that cannot be scored
    labelled: list[Dialogue]  # those left out, because they have labels

    @property
    def dialogues(self) -> list[Dialogue]:
        """The dialogues of the samples."""
        return [sample.dialogue for sample in self.found if sample.dialogue is not None]


def open_pool(dataset: Any, labelled: str | os.PathLike[str] | None = None) -> Pool:
    """Reads the samples of a data set, each content once."""
    known: list[Dialogue] = []
    if labelled is not None:
        judged = open_rows(labelled)
        _format(judged)
        known = [sample.dialogue for sample in read_samples(judged) if sample.dialogue]
    seen, fmt = set(map(dialogue_key, known)), _format(dataset)
    found: list[Sample] = []
    count = 0
    for sample in read_samples(dataset):
        count += 1
        if sample.dialogue is not None and (key := dialogue_key(sample.dialogue)) not in seen:
            seen.add(key)
            found.append(sample)
    return Pool(dataset, fmt, found, count, known)


def _format(dataset: Any) -> DialogueFormat:
    fmt = recognise(list(features_of(dataset)))
    if fmt.utterance_rows:
        raise FormatError(
            "the data set has one utterance a row; write each reply with its context first: "
            "ee-trl score DIALOGUES -o scored.parquet"
        )
    return fmt


def pool_tables(pool: Pool, chosen: np.ndarray) -> tuple[Features, Iterator[pa.Table]]:
    """
    The chosen samples as rows of the source, the most wanted first.

    In a conversation of several turns, `row_index` and `turn` name the reply, as in files of `ee-trl score`; scoring
    the file scores these replies alone.
    """
    wanted = [pool.found[i] for i in chosen]
    added = {ORDER: list(range(len(wanted)))}
    if pool.fmt.multi_turn:
        added |= {"row_index": [s.row for s in wanted], "turn": [s.turn for s in wanted]}
    kept = {name: feature for name, feature in features_of(pool.dataset).items() if name not in added}

    def tables() -> Iterator[pa.Table]:
        rows, places = np.unique([sample.row for sample in wanted], return_inverse=True)
        where = np.zeros(rows[-1] + 1, bool)
        where[rows] = True
        table = pa.concat_tables(list(chosen_rows(tables_of(pool.dataset), where))).take(pa.array(places))
        table = table.select([name for name in table.column_names if name not in added])
        for name, values in added.items():
            table = table.append_column(name, pa.array(values, pa.int64()))
        yield table

    return Features({**kept, **{name: Value("int64") for name in added}}), tables()
