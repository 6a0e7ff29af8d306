"""The encoder classifier: a pretrained encoder fine-tuned on seeker and reply, three levels a mechanism."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .classifier import LEVELS, MECHANISMS, save_config


MAX_TOKENS = 256


class EncoderClassifier:
    """
    A sequence classification model whose logits are read as three levels for each of three mechanisms.

    Args:
        model (`PreTrainedModel`): With nine labels.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        batch_size (`int`, *optional*, defaults to `32`): Of predictions; changes nothing but speed.
    """

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
        """
        Fine-tunes an encoder by transformers' Trainer; the levels of each mechanism count alike, however rare.

        Args:
            seekers, responses (`Sequence[str]`): The posts.
            levels (`np.ndarray` of shape `(n, 3)`): 0 to 2 for each of [`MECHANISMS`].
            encoder (`str` or `os.PathLike`): Folder or hub id of a pretrained encoder.
            epochs, learning_rate, batch_size, seed (*optional*): Of the training.
        """
        import torch
        from transformers import AutoTokenizer, TrainingArguments

        tokenizer = AutoTokenizer.from_pretrained(encoder)
        rows = [
            {**encoded, "labels": row}
            for encoded, row in zip(_encoded(tokenizer, seekers, responses), levels.tolist(), strict=True)
        ]
        weights = torch.tensor(_class_weights(levels), dtype=torch.float32)
        with tempfile.TemporaryDirectory() as folder, _own_randomness():
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
            model = _trained(encoder, args, rows, tokenizer, weights)
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
        """Writes model, tokenizer and `epitome.json`."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        save_config(folder, {"kind": "encoder", **record})

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> EncoderClassifier:
        """Reads what [`save`] wrote; onto a GPU where there is one."""
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        model = AutoModelForSequenceClassification.from_pretrained(folder)
        model = model.to("cuda" if torch.cuda.is_available() else "cpu")
        return cls(model, AutoTokenizer.from_pretrained(folder))


def _trained(encoder: Any, args: Any, rows: list[dict[str, Any]], tokenizer: Any, weights: Any) -> Any:
    """An encoder with new heads, fine-tuned on the rows; `weights` are those of the levels, shape `(3, 3)`."""
    import torch
    from transformers import AutoModelForSequenceClassification, Trainer
    from transformers.trainer_callback import PrinterCallback
    from transformers.trainer_utils import set_seed

    set_seed(args.seed)  # the heads are drawn
    labels = len(MECHANISMS) * len(LEVELS)
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder, num_labels=labels, problem_type="multi_label_classification"
    )

    def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        logits, wanted = outputs.logits.float().view(-1, len(MECHANISMS), len(LEVELS)), labels.long()
        parts = [
            torch.nn.functional.cross_entropy(logits[:, i], wanted[:, i], weight=weights[i].to(logits.device))
            for i in range(len(MECHANISMS))
        ]
        return torch.stack(parts).mean()

    trainer = Trainer(model, args, train_dataset=rows, data_collator=_collator(tokenizer), compute_loss_func=loss)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return model


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Training sets the seeds of all generators: they are as before afterwards."""
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _encoded(tokenizer: Any, seekers: Sequence[str], responses: Sequence[str]) -> list[dict[str, Any]]:
    """Seeker and reply as a pair; where both are too long for the encoder, the longer one is cut."""
    limit = min(MAX_TOKENS, getattr(tokenizer, "model_max_length", MAX_TOKENS))
    pairs = zip(seekers, responses, strict=True)
    return [dict(tokenizer(s, r, truncation="longest_first", max_length=limit)) for s, r in pairs]


def _class_weights(levels: np.ndarray) -> np.ndarray:
    """For each mechanism and level the samples over those of the level, shape `(3, 3)`; 0 for one that none has."""
    counts = np.stack([np.bincount(column, minlength=len(LEVELS)) for column in levels.T])
    there = (counts > 0).sum(axis=1, keepdims=True)
    return np.divide(len(levels), there * counts, out=np.zeros(counts.shape), where=counts > 0)


def _collator(tokenizer: Any) -> Any:
    import torch

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = tokenizer.pad([{k: v for k, v in row.items() if k != "labels"} for row in rows], return_tensors="pt")
        return {**batch, "labels": torch.tensor([row["labels"] for row in rows])}

    return collate
