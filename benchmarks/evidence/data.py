"""EmpatheticDialogues for the runs: one spelling, no repeated pairs, no held-out dialogues, scores from two halves.

The authors' validation and test splits are lower-cased and tokenised, the training split is as people typed it; a
model trained from scratch needs one spelling. Two scorers are distilled from the authors' scores of the
validation split, each from the conversations that the other has not seen: A selects, B measures.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ee_trl import EmpathyDataSelector, build_tiny_causal_lm, distill
from ee_trl.axes import AXES, QUADRANTS, TIE, quadrants
from ee_trl.evaluation.eval_set import read_eval_set
from ee_trl.scoring.judged import folds_of, open_judged


TRAIN, VALIDATION, TEST = "ed_train.parquet", "ed_validation_scored.parquet", "ed_test.parquet"
HALVES = {"A": "full", "B": "frozen"}
"""Half of the validation split -> how the scorer is distilled from it."""
SIZES = {"vocab_size": 8192, "hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 6}
STOPPING_ROWS = 400
"""Validation samples that a run is watched on while it trains."""

# how the held-out splits write contractions
_EXPANDED = {
    "can't": "can not", "won't": "will not", "don't": "do not", "doesn't": "does not", "didn't": "did not",
    "isn't": "is not", "aren't": "are not", "wasn't": "was not", "weren't": "were not", "couldn't": "could not",
    "i'm": "i am", "you're": "you are", "we're": "we are", "they're": "they are", "he's": "he is", "she's": "she is",
    "it's": "it is", "that's": "that is", "what's": "what is", "there's": "there is", "i've": "i have",
    "you've": "you have", "we've": "we have", "they've": "they have", "i'd": "i would", "you'd": "you would",
    "i'll": "i will", "you'll": "you will", "we'll": "we will",
}  # fmt: skip
_CONTRACTION = re.compile(r"\b(" + "|".join(map(re.escape, _EXPANDED)) + r")\b")
_FULL_STOP = re.compile(r"(?<=[^\W\d_])\.(?=\s)")


def plain_text(text: str) -> str:
    """
    Text as the held-out splits have it: lower case, common contractions written out, words and marks apart.

    Example:

    >>> plain_text("That's great! I didn't know. Sorry, Tom.")
    'that is great ! i did not know . sorry , tom .'
    """
    from nltk.tokenize import NLTKWordTokenizer

    lowered = _CONTRACTION.sub(lambda match: _EXPANDED[match[0]], text.lower().replace("’", "'"))
    words = NLTKWordTokenizer().tokenize(_FULL_STOP.sub(" .", lowered))
    return " ".join({"``": '"', "''": '"'}.get(word, word) for word in words)


def read_split(path: Path) -> list[dict[str, Any]]:
    """The rows that [`prepare`] wrote: `context`, `response`, `emotion`, and scores where they are."""
    wanted = ("context", "response", "emotion", *AXES)
    return [{name: row[name] for name in wanted if name in row} for row in Dataset.from_parquet(str(path))]


def read_typed(source: str, split: str | None = None) -> list[dict[str, Any]]:
    """A split of dialogues in any format, from a file or the hub, rewritten by [`plain_text`]."""
    found = read_eval_set(source, split=split)
    emotions = found.emotions or [""] * len(found)
    return [
        {"context": [plain_text(text) for text in d.context], "response": plain_text(d.response), "emotion": emotion}
        for d, emotion in zip(found.dialogues, emotions, strict=True)
    ]


def without_repeats(rows: Sequence[dict[str, Any]], held_out: Sequence[dict[str, Any]]) -> tuple[list[Any], Counter]:
    """The rows without repeated pairs and held-out conversations; and how many were removed, by reason."""
    firsts = {row["context"][0] for row in held_out}
    seen: set[tuple[str, ...]] = set()
    kept, gone = [], Counter[str]()
    for row in rows:
        pair = (*row["context"], row["response"])
        why = (
            "no reply" if not row["response"]
            else "its conversation begins as a held-out one" if row["context"][0] in firsts
            else "the same pair once more" if pair in seen
            else None
        )  # fmt: skip
        seen.add(pair)
        gone[why] += why is not None
        if why is None:
            kept.append(row)
    return kept, +gone


def cut(row: dict[str, Any], lengths: Sequence[int], most: int) -> dict[str, Any]:
    """The row without its oldest turns if it has more than `most` tokens; `lengths` are those of turns and reply."""
    context, total = list(row["context"]), sum(lengths)
    for length in lengths[:-2]:
        if total <= most:
            break
        context, total = context[1:], total - length
    return {**row, "context": context}


def fingerprint(source: str, judged: Path | None = None) -> str:
    """Identifies what [`prepare`] reads: a digest of the files, or the hub's name with the judged file's digest."""
    folder = Path(source)
    files = [folder / TRAIN, folder / TEST] if folder.is_dir() else []
    digest = sha256()
    for path in (*files, judged or folder / VALIDATION):
        digest.update(path.read_bytes())
    return ("" if files else f"{source}-") + digest.hexdigest()[:16]


def prepare(source: str, work: Path, judged: Path | None = None, seed: int = 0) -> dict[str, Any]:
    """
    Writes the splits as the runs read them, and the halves that the scorers learn from; returns what was removed.

    Args:
        source (`str`): A folder with [`TRAIN`] and [`TEST`], or else a data set with the splits train and test, such
            as the hub's.
        work (`Path`): The folder of the runs.
        judged (`Path`, *optional*): The judged validation split; by default [`VALIDATION`] of the folder.
        seed (`int`, *optional*, defaults to `0`): Of the halves.
    """
    folder, record = work / "data", work / "data" / "prepared.json"
    if record.exists():
        return json.loads(record.read_text(encoding="utf-8"))
    files = (Path(source) / TRAIN).exists()
    validation = read_split(judged or Path(source) / VALIDATION)
    test = read_split(Path(source) / TEST) if files else read_typed(source, "test")
    train = read_typed(str(Path(source) / TRAIN)) if files else read_typed(source, "train")
    train, gone = without_repeats(train, [*validation, *test])
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("validation", validation), ("test", test)):
        Dataset.from_list(rows).to_parquet(folder / f"{name}.parquet")
    numbers = open_judged(folder / "validation.parquet").conversations
    folds = folds_of(numbers, len(HALVES), seed)
    for number, half in enumerate(HALVES):
        rows = [row for row, fold in zip(validation, folds, strict=True) if fold == number]
        Dataset.from_list(rows).to_parquet(folder / f"half_{half}.parquet")
    found = {
        "rows": {"train": len(train), "validation": len(validation), "test": len(test)},
        "left_out_of_train": dict(gone),
        "halves": {half: int((folds == number).sum()) for number, half in enumerate(HALVES)},
    }
    record.write_text(json.dumps(found, indent=2), encoding="utf-8")
    return found


def scorer_of(half: str, encoder: str, work: Path) -> tuple[Path, dict[str, Any]]:
    """
    The scorer distilled from one half of the validation split, and how well it agrees on what it did not see.

    A is the encoder fine-tuned as a whole, the best scorer; B is a head on its frozen features, so that the two differ
    in what they notice in a reply.
    """
    folder = work / "scorers" / half
    if not (folder / "report.json").exists():
        distill(work / "data" / f"half_{half}.parquet", encoder, folder, method=HALVES[half], overwrite=True)
    return folder, json.loads((folder / "report.json").read_text(encoding="utf-8"))


def score_train(scorer: Path, work: Path, most: int) -> dict[str, Any]:
    """
    Scores the training split with A and writes what the runs read, in `scored/`, and what they are measured on, in
    `held_out/`; dialogues of more than `most` tokens lose their oldest turns, after they are scored.
    """
    folder, record = work / "scored", work / "scored.json"
    if record.exists():
        return json.loads(record.read_text(encoding="utf-8"))
    start = time.perf_counter()
    selector = EmpathyDataSelector(str(scorer), store=str(work / "scores.sqlite"))
    scored = selector.score(Dataset.from_parquet(str(work / "data" / "train.parquet")))
    seconds = time.perf_counter() - start
    assert selector.coverage is not None
    selector.coverage.check(0.0)
    rows = [{name: row[name] for name in ("context", "response", "emotion", *AXES)} for row in scored]
    tokenizer = tokenizer_of(work)
    train, tokens = cut_rows(rows, tokenizer, most)
    validation, _ = cut_rows(read_split(work / "data" / "validation.parquet"), tokenizer, most)
    test, _ = cut_rows(read_split(work / "data" / "test.parquet"), tokenizer, most)
    watched = np.random.default_rng(0).permutation(len(validation))[:STOPPING_ROWS]
    for where, split in (
        (folder / "train.parquet", train),
        (folder / "validation.parquet", [validation[i] for i in sorted(watched)]),
        (work / "held_out" / "validation.parquet", validation),
        (work / "held_out" / "test.parquet", test),
    ):
        where.parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_list(split).to_parquet(where)
    sets = Counter(quadrants(*([row[axis] for row in rows] for axis in AXES)).tolist())
    found = {
        "seconds": round(seconds, 1),
        "cut": sum(len(a["context"]) != len(b["context"]) for a, b in zip(rows, train, strict=True)),
        "tokens_an_epoch": tokens,
        "quadrants": {name: sets[name] for name in (*QUADRANTS, TIE)},
    }
    record.write_text(json.dumps(found, indent=2), encoding="utf-8")
    return found


def cut_rows(rows: Sequence[dict[str, Any]], tokenizer: Any, most: int) -> tuple[list[dict[str, Any]], int]:
    """The rows, those of more than `most` tokens without their oldest turns; and how many tokens are trained on."""
    texts = [[*row["context"], row["response"]] for row in rows]
    ids = iter(tokenizer([text for turns in texts for text in turns])["input_ids"])
    lengths = [[len(next(ids)) + 2 for _ in turns] for turns in texts]  # each turn has a role and an end
    cuts = [cut(row, each, most) for row, each in zip(rows, lengths, strict=True)]
    return cuts, sum(min(sum(each[-len(row["context"]) - 1 :]), most) for row, each in zip(cuts, lengths, strict=True))


def tokenizer_of(work: Path) -> Any:
    """The tokenizer of the small models."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(untrained(work))


def untrained(work: Path) -> Path:
    """A small model with random weights, and a tokenizer trained on the training split."""
    folder = work / "models" / "untrained"
    if not (folder / "tokenizer.json").exists():
        rows = Dataset.from_parquet(str(work / "data" / "train.parquet"))
        build_tiny_causal_lm(folder, (text for row in rows for text in (*row["context"], row["response"])), **SIZES)
    return folder


def speakers_turns(work: Path) -> Dataset:
    """What speakers say in the training split, each turn once, as conversations without any reply."""
    rows = Dataset.from_parquet(str(work / "data" / "train.parquet"))
    turns = sorted({text for row in rows for text in row["context"][::-2]})  # the last is the speaker's
    return Dataset.from_list([{"messages": [{"role": "user", "content": text}]} for text in turns])
