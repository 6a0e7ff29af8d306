"""Classifiers of EPITOME levels: a linear one, a fine-tuned encoder, or any object with `predict`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ee_trl.errors import require
from ee_trl.files import read_json, write_json


MECHANISMS = ("emotional_reactions", "interpretations", "explorations")
"""The columns of every array of levels, in this order."""
LEVELS = (0, 1, 2)
"""No communication, weak, strong."""

CONFIG = "epitome.json"
"""The file that marks a classifier's folder: its kind, settings, and how well it did in cross-validation."""
WEIGHTS = "weights.npz"
FEATURES = "epitome-1"
"""The version of the linear classifier's features; it changes with any of them."""
TOKEN = r"\w+|[^\w\s]"
MAX_TOKENS = 256


class Classifier(Protocol):
    """Anything that gives the levels of replies."""

    def predict(self, seekers: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Levels 0 to 2 of shape `(n, 3)`, in the order of [`MECHANISMS`]."""
        ...


def load_classifier(classifier: Any) -> Classifier:
    """The classifier in a folder that `ee-trl train-epitome` wrote; an object with `predict` is returned as it is."""
    train = "Train one with: ee-trl train-epitome DATA -o FOLDER"
    if classifier is None:
        raise ValueError(f"classifier is needed: a folder, or an object with predict(seekers, responses). {train}")
    if not isinstance(classifier, (str, os.PathLike)):
        if not callable(getattr(classifier, "predict", None)):
            raise ValueError(f"{classifier!r} is not a classifier: it has no method predict(seekers, responses).")
        return classifier
    path = Path(classifier) / CONFIG
    if not path.is_file():
        raise ValueError(f"{str(classifier)!r} holds no EPITOME classifier ({CONFIG}). {train}")
    kind = read_json(path)["kind"]
    if kind not in KINDS:
        raise ValueError(f"{str(path)!r} has the kind {kind!r}; valid: {', '.join(KINDS)}. {train}")
    return KINDS[kind].load(path.parent)


class LinearClassifier:
    """
    TF-IDF of the reply's hashed words and letters, and a logistic regression for each mechanism.

    It ignores the seeker. Shapes: `idf` `(f,)`; `weights` `(f, 9)` and `bias` `(9,)`, for each mechanism and level.
    """

    def __init__(self, idf: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> None:
        self.idf, self.weights, self.bias = idf, weights, bias

    @classmethod
    def fit(
        cls, seekers: Sequence[str], responses: Sequence[str], levels: np.ndarray, *, c: float = 0.3
    ) -> LinearClassifier:
        """Trains on levels of shape `(n, 3)`, all with the same total weight; `c` is the inverse regularisation."""
        from sklearn.feature_extraction.text import TfidfTransformer
        from sklearn.linear_model import LogisticRegression

        counts = _counts(responses)
        idf = np.concatenate([TfidfTransformer().fit(block).idf_ for block in counts])
        features = _features(counts, idf)
        weights = np.zeros((features.shape[1], len(MECHANISMS) * len(LEVELS)))
        bias = np.full(weights.shape[1], -np.inf)  # a level that the data lack is never predicted
        for i in range(len(MECHANISMS)):
            wanted = levels[:, i]
            there = sorted(set(wanted.tolist()))
            columns = [len(LEVELS) * i + level for level in there]
            bias[columns] = 0.0
            if len(there) == 1:
                continue
            model = LogisticRegression(C=c, class_weight="balanced", max_iter=1000).fit(features, wanted)
            if len(there) == 2:  # one column stands for both
                weights[:, columns[1]], bias[columns[1]] = model.coef_[0], model.intercept_[0]
            else:
                weights[:, columns], bias[columns] = model.coef_.T, model.intercept_
        return cls(idf.astype(np.float32), weights.astype(np.float32), bias.astype(np.float32))

    def predict(self, seekers: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Levels of shape `(n, 3)`."""
        found = _features(_counts(responses), self.idf) @ self.weights.astype(np.float64) + self.bias
        return found.reshape(len(responses), len(MECHANISMS), len(LEVELS)).argmax(axis=2)

    def save(self, folder: str | os.PathLike[str], record: dict[str, Any]) -> None:
        """Writes `weights.npz`, and `epitome.json` last: a folder without it is incomplete."""
        _begin(folder)
        np.savez_compressed(Path(folder) / WEIGHTS, idf=self.idf, weights=self.weights, bias=self.bias)
        write_json(Path(folder) / CONFIG, {"kind": "linear", "features": FEATURES, **record})

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> LinearClassifier:
        """Reads what `save` wrote."""
        with np.load(Path(folder) / WEIGHTS, allow_pickle=False) as stored:
            return cls(stored["idf"], stored["weights"], stored["bias"])


def _counts(responses: Sequence[str]) -> list[Any]:
    """Counts of hashed n-grams: words of the replies, and letters within them."""
    text = require("sklearn.feature_extraction.text", extra="metrics", purpose="the linear EPITOME classifier")
    plain: dict[str, Any] = {"norm": None, "alternate_sign": False, "n_features": 1 << 15}
    words = text.HashingVectorizer(ngram_range=(1, 2), token_pattern=TOKEN, **plain)
    letters = text.HashingVectorizer(ngram_range=(2, 5), analyzer="char_wb", **plain)
    return [words.transform(responses), letters.transform(responses)]


def _features(counts: Sequence[Any], idf: np.ndarray) -> Any:
    """Each block weighted by idf and of length 1, side by side: a sparse matrix of shape `(n, f)`."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import TfidfTransformer

    blocks, start = [], 0
    for block in counts:
        transformer = TfidfTransformer(sublinear_tf=True)
        transformer.idf_ = idf[start : start + block.shape[1]].astype(np.float64)
        blocks.append(transformer.transform(block))
        start += block.shape[1]
    return hstack(blocks).tocsr()


class EncoderClassifier:
    """A fine-tuned encoder of seeker and reply with nine labels: three levels for each of three mechanisms."""

    def __init__(self, model: Any, tokenizer: Any, batch_size: int = 32) -> None:
        self.model, self.tokenizer, self.batch_size = model.eval(), tokenizer, batch_size

    @classmethod
    def fit(
        cls,
        seekers: Sequence[str],
        responses: Sequence[str],
        levels: np.ndarray,
        *,
        encoder: str | os.PathLike[str],
        epochs: float = 4.0,
        learning_rate: float = 5e-5,
        batch_size: int = 32,
        seed: int = 0,
    ) -> EncoderClassifier:
        """Fine-tunes an encoder, a folder or hub id, on levels of shape `(n, 3)`, all with the same total weight."""
        import torch
        from transformers import AutoTokenizer, TrainingArguments

        from ee_trl.online.alignment import random_state_kept

        tokenizer = AutoTokenizer.from_pretrained(encoder)
        labelled = zip(_encoded(tokenizer, seekers, responses), levels.tolist(), strict=True)
        rows = [{**encoded, "labels": row} for encoded, row in labelled]
        with tempfile.TemporaryDirectory() as folder, random_state_kept():
            args = TrainingArguments(
                folder,
                num_train_epochs=epochs,
                learning_rate=learning_rate,
                per_device_train_batch_size=batch_size,
                warmup_steps=0.1,
                weight_decay=0.01,
                save_strategy="no",
                report_to="none",
                seed=seed,
                use_cpu=not torch.cuda.is_available(),
                disable_tqdm=True,
                logging_strategy="no",
            )
            model = _trained(encoder, args, rows, tokenizer, _class_weights(levels))
        return cls(model, tokenizer)

    def predict(self, seekers: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Levels of shape `(n, 3)`."""
        import torch

        encoded = _encoded(self.tokenizer, seekers, responses)
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]["input_ids"]))
        levels = np.zeros((len(encoded), len(MECHANISMS)), int)
        for start in range(0, len(order), self.batch_size):
            part = order[start : start + self.batch_size]
            batch = self.tokenizer.pad([encoded[i] for i in part], return_tensors="pt").to(self.model.device)
            with torch.inference_mode():
                logits = self.model(**batch).logits.float().cpu().numpy()
            levels[part] = logits.reshape(len(part), len(MECHANISMS), len(LEVELS)).argmax(axis=2)
        return levels

    def save(self, folder: str | os.PathLike[str], record: dict[str, Any]) -> None:
        """Writes model and tokenizer, and `epitome.json` last."""
        _begin(folder)
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        write_json(Path(folder) / CONFIG, {"kind": "encoder", **record})

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> EncoderClassifier:
        """Reads what `save` wrote; onto a GPU where there is one."""
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        model = AutoModelForSequenceClassification.from_pretrained(folder, use_safetensors=True)
        model = model.to("cuda" if torch.cuda.is_available() else "cpu")
        return cls(model, AutoTokenizer.from_pretrained(folder))


def _begin(folder: str | os.PathLike[str]) -> None:
    """Makes the folder, and an old classifier in it incomplete."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / CONFIG).unlink(missing_ok=True)


KINDS: dict[str, Any] = {"linear": LinearClassifier, "encoder": EncoderClassifier}


def _trained(encoder: Any, args: Any, rows: list[dict[str, Any]], tokenizer: Any, weights: np.ndarray) -> Any:
    """An encoder with new heads, fine-tuned on the rows; `weights` weigh the levels, shape `(3, 3)`."""
    import torch
    from transformers import AutoModelForSequenceClassification, Trainer
    from transformers.trainer_callback import PrinterCallback
    from transformers.trainer_utils import set_seed

    set_seed(args.seed)  # the heads are drawn
    head = {"num_labels": len(MECHANISMS) * len(LEVELS), "problem_type": "multi_label_classification"}
    model = AutoModelForSequenceClassification.from_pretrained(encoder, use_safetensors=True, **head)
    level_weights = torch.tensor(weights, dtype=torch.float32)

    def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        logits, wanted = outputs.logits.float().view(-1, len(MECHANISMS), len(LEVELS)), labels.long()
        parts = [
            torch.nn.functional.cross_entropy(logits[:, i], wanted[:, i], weight=level_weights[i].to(logits.device))
            for i in range(len(MECHANISMS))
        ]
        return torch.stack(parts).mean()

    def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
        inputs = [{name: value for name, value in row.items() if name != "labels"} for row in batch]
        padded = tokenizer.pad(inputs, return_tensors="pt")
        return {**padded, "labels": torch.tensor([row["labels"] for row in batch])}

    trainer = Trainer(model, args, train_dataset=rows, data_collator=collate, compute_loss_func=loss)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return model


def _encoded(tokenizer: Any, seekers: Sequence[str], responses: Sequence[str]) -> list[dict[str, Any]]:
    """Seeker and reply as a pair; where both are too long for the encoder, the longer one is cut."""
    limit = min(MAX_TOKENS, getattr(tokenizer, "model_max_length", MAX_TOKENS))
    pairs = zip(seekers, responses, strict=True)
    return [dict(tokenizer(s, r, truncation="longest_first", max_length=limit)) for s, r in pairs]


def _class_weights(levels: np.ndarray) -> np.ndarray:
    """Each mechanism's weights of its levels, shape `(3, 3)`: all levels count the same; 0 if no sample has it."""
    counts = np.stack([np.bincount(column, minlength=len(LEVELS)) for column in levels.T])
    there = (counts > 0).sum(axis=1, keepdims=True)
    return np.divide(len(levels), there * counts, out=np.zeros(counts.shape), where=counts > 0)
