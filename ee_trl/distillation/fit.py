"""Fits an encoder with a head of two outputs, and a linear model over words beside it, to judged samples."""

from __future__ import annotations

import copy
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.utils.logging import is_progress_bar_enabled

from ..axes import AXES
from ..data.dialogue import Dialogue
from ..errors import TrainingError, check_choice, check_share, require
from ..files import temporary_folder
from ..scoring import features as ft
from ..scoring.encoder import (
    Encoded,
    EncoderInputs,
    computes_in_bfloat16,
    heads_of,
    mixed,
    padded,
    raw_outputs,
    with_head_in_float32,
)
from ..scoring.judged import check_spread, targets
from ..scoring.linear import RawModel
from .negatives import kinds_of


LEARNING_RATES = {"full": 1.5e-4, "lora": 1e-3, "frozen": 3e-3}
"""Method (it trains all weights; low-rank updates; the head alone) -> its default learning rate."""

MOST_WORDS = 8_000  # most samples to fit the linear model to, evenly spaced among all
DECIMALS = 6
"""Stored numbers other than float16 are rounded to so many digits, so that threads change nothing."""

# Attention dropout is off while fitting: with it, a CPU cannot use its fused attention.
_ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")


@dataclass(frozen=True)
class FitOptions:
    """
    How an encoder is fitted.

    Args:
        method (`str`, *optional*, defaults to `"full"`):
            `"full"` (all weights but the word embeddings), `"lora"` (low-rank updates of all linear layers, merged at
            the end, and the head), or `"frozen"` (the head alone, with the pooler if there is one).
        epochs (`float`, *optional*, defaults to `3.0`): Passes over the samples; the learning rate falls to 0.
        learning_rate (`float`, *optional*): By default the method's, see [`LEARNING_RATES`].
        batch_size (`int`, *optional*, defaults to `32`): Samples in one step.
        inputs ([`EncoderInputs`], *optional*): How a dialogue is read.
        lora_rank (`int`, *optional*, defaults to `16`): Rank of the updates of `"lora"`.
        bf16 (`bool`, *optional*): Train in bfloat16; by default on GPUs and CPUs that compute in it.
        seed (`int`, *optional*, defaults to `0`): Seed of the head, the order and dropout.
        words (`float`, *optional*, defaults to `0.4`):
            Share of a linear model over words in the prediction, fitted to the same samples in seconds. Its errors
            differ from the encoder's, so the mean is better than either. 0: the encoder alone.
        negatives (`str` or `Sequence[str]`, *optional*, defaults to `"none"`):
            Kinds of made bad replies to learn from (see [`~ee_trl.distillation.negatives.kinds_of`]), or `"all"`. With
            them the scorer flags replies that do not fit their context. It is a bi-encoder then: it reads context and
            reply apart, learns to tell true replies from made and swapped ones, and both axes are a regression on
            what it reads.
        negatives_per_sample (`float`, *optional*, defaults to `2.0`): Made replies for each dialogue, on average.
        false_flags (`float`, *optional*, defaults to `0.05`):
            The share of the held-out true replies that may be flagged; the cut follows from it.
    """

    method: str = "full"
    epochs: float = 3.0
    learning_rate: float | None = None
    batch_size: int = 32
    inputs: EncoderInputs = EncoderInputs()
    lora_rank: int = 16
    bf16: bool | None = None
    seed: int = 0
    words: float = 0.4
    negatives: str | Sequence[str] = "none"
    negatives_per_sample: float = 2.0
    false_flags: float = 0.05

    def __post_init__(self) -> None:
        object.__setattr__(self, "negatives", kinds_of(self.negatives))
        if self.negatives and self.method != "full":
            raise TrainingError(f"method {self.method!r} does not go with negatives; use 'full', or no negatives")
        check_share("false_flags", self.false_flags, error=TrainingError)
        check_choice("method", self.method, LEARNING_RATES, TrainingError)
        for name in ("epochs", "learning_rate", "batch_size", "lora_rank", "negatives_per_sample"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise TrainingError(f"{name} {value!r} is not above 0")
        if not 0 <= self.words < 1:
            raise TrainingError(f"words {self.words!r} is not a share of at least 0 and below 1")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
            raise TrainingError(f"seed {self.seed!r} is not a whole number from 0 to 2 ** 32 - 1")

    def record(self) -> dict[str, Any]:
        """The options as used; those of made replies only where there are some."""
        used = {**asdict(self), "learning_rate": self.rate, "bf16": self.precision}
        made = ("negatives", "negatives_per_sample", "false_flags")
        return {name: value for name, value in used.items() if self.negatives or name not in made}

    @property
    def rate(self) -> float:
        """The learning rate."""
        return self.learning_rate or LEARNING_RATES[self.method]

    @property
    def precision(self) -> bool:
        """Whether it trains in bfloat16."""
        if self.bf16 is not None:
            return self.bf16
        return torch.cuda.is_bf16_supported() if torch.cuda.is_available() else computes_in_bfloat16()


@dataclass(frozen=True)
class Fitted:
    """The encoder with its head, how it was fitted, what [`fit_words`] gave, and how long that took."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    options: FitOptions
    words: dict[str, np.ndarray] | None
    seconds: float

    def mixed(self, raw: np.ndarray, dialogues: Sequence[Dialogue]) -> np.ndarray:
        """What `raw` gave, each axis mixed with what the words alone predict."""
        if self.words is None:
            return raw
        by_words = RawModel(self.words).predict(ft.extract(dialogues))
        axes = mixed(raw[:, : len(AXES)], by_words, self.options.words)
        return np.column_stack([axes, raw[:, len(AXES) :]])

    def save(self, folder: Path) -> None:
        """Writes the model and its tokenizer."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def raw(self, dialogues: Sequence[Dialogue], token_budget: int = 2_048) -> np.ndarray:
        """The encoder's outputs, before any calibration, shape `(n, 2)`, computed as the scorer will."""
        texts = self.options.inputs.encode(self.tokenizer, dialogues)
        precision = torch.bfloat16 if self.options.precision else torch.float32
        model = with_head_in_float32(copy.deepcopy(self.model).eval(), precision)
        return raw_outputs(model, self.tokenizer, texts, token_budget, self.options.inputs.max_length)


def load_encoder(name: str | os.PathLike[str], seed: int, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """An encoder with a fresh head of two outputs, and its tokenizer; raises [`TrainingError`] where that fails."""
    set_seed(seed)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
        config = AutoConfig.from_pretrained(
            name,
            num_labels=len(AXES),
            problem_type="regression",
            id2label=dict(enumerate(AXES)),
            label2id={axis: i for i, axis in enumerate(AXES)},
            trust_remote_code=trust_remote_code,
        )
        for dropout in _ATTENTION_DROPOUT:
            if hasattr(config, dropout):
                setattr(config, dropout, 0.0)
        model = AutoModelForSequenceClassification.from_pretrained(
            name,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
        )
    except Exception as error:  # a damaged folder can raise anything
        raise TrainingError(
            f"the encoder {os.fspath(name)!r} cannot be loaded: {error}. Give a folder or hub id of an encoder, e.g. "
            "microsoft/deberta-v3-small"
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def longest_of(model: torch.nn.Module) -> int | None:
    """How many tokens an encoder has positions for; `None` for any number."""
    positions: int = getattr(model.config, "max_position_embeddings", None) or 0
    if positions <= 0:  # XLNet says -1
        return None
    for name, module in model.named_modules():  # RoBERTa's positions begin after the padding's
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return positions - module.padding_idx - 1
    return positions


def fit(
    dialogues: Sequence[Dialogue],
    scores: np.ndarray,
    encoder: str | os.PathLike[str],
    options: FitOptions,
    trust_remote_code: bool = False,
) -> Fitted:
    """Fits an encoder (a hub id or folder) to a judge's scores, shape `(n, 2)`; low-rank updates are merged."""
    check_spread(scores)
    start = time.perf_counter()
    model, tokenizer = load_encoder(encoder, options.seed, trust_remote_code)
    longest = longest_of(model)
    if longest is not None and options.inputs.max_length > longest:
        raise TrainingError(f"max_length {options.inputs.max_length} is more than this encoder's {longest}")
    model = _prepared(model, options)
    texts = options.inputs.encode(tokenizer, dialogues)
    wanted = targets(scores).tolist()
    rows = [{**text, "labels": wanted[i], "length": len(text["input_ids"])} for i, text in enumerate(texts)]

    def padded_to_longest(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        texts: list[Encoded] = [{k: v for k, v in row.items() if k not in ("labels", "length")} for row in rows]
        batch = padded(tokenizer, texts, len(texts), max(row["length"] for row in rows))
        return {**batch, "labels": torch.tensor([row["labels"] for row in rows])}

    arguments, dataset = arguments_of(options), Dataset.from_list(rows)
    trainer = Trainer(model=model, args=arguments, train_dataset=dataset, data_collator=padded_to_longest)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    if options.method == "lora":
        model = model.merge_and_unload()
    model.requires_grad_(True)
    words = fit_words(dialogues, scores) if options.words else None
    return Fitted(model.eval(), tokenizer, options, words, time.perf_counter() - start)


def _prepared(model: Any, options: FitOptions) -> Any:
    """The model, with everything frozen that the method does not train."""
    if options.method == "lora":
        from peft import LoraConfig, TaskType, get_peft_model

        config = LoraConfig(
            task_type=TaskType.SEQ_CLS,
            r=options.lora_rank,
            lora_alpha=2 * options.lora_rank,
            lora_dropout=0.05,
            target_modules="all-linear",
            modules_to_save=list(heads_of(model)),
        )
        return get_peft_model(model, config)
    if options.method == "frozen":
        heads = heads_of(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("pooler" in name or name.split(".")[0] in heads)
        return model
    # word embeddings are a third to a half of a small encoder; training them does not help
    model.get_input_embeddings().requires_grad_(False)
    return model


def arguments_of(options: FitOptions, grouped: bool = True) -> TrainingArguments:
    """The trainer's arguments; `grouped` by length, the batches hold texts of similar length."""
    return TrainingArguments(
        output_dir=str(temporary_folder()),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        learning_rate=options.rate,
        lr_scheduler_type="linear",
        warmup_steps=0.1,
        weight_decay=0.01,
        max_grad_norm=1.0,
        bf16=options.precision,
        use_cpu=not torch.cuda.is_available(),
        seed=options.seed,
        train_sampling_strategy="group_by_length" if grouped else "random",
        length_column_name="length",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        save_strategy="no",
        report_to=[],
        logging_strategy="no",
        disable_tqdm=not (sys.stderr.isatty() and is_progress_bar_enabled()),  # `-q` turns all bars off
    )


RIDGE = 3.0
# The prior variance of each block's part of the prediction, relative to the others. The optimum is flat: halving or
# doubling one of them moves Spearman by less than 0.01.
BLOCK_VARIANCE = {ft.REPLY: 1.0, ft.CHARS: 1.0, ft.TURN: 0.4, ft.EARLIER: 0.2, "surface": 0.7}
MIN_DOCUMENTS = 2  # an n-gram must occur in so many replies (or contexts) to get a weight


def _designs(features: ft.Features, sp: Any) -> dict[str, Any]:
    """The features as one sparse matrix for each block, scaled as [`~ee_trl.scoring.linear.RawModel`] scales them."""
    n = len(features.replies)
    blocks = {}
    for name, grams in features.grams.items():
        values = 1 / np.sqrt(np.maximum(grams.counts, 1))[grams.rows]
        blocks[name] = sp.csr_matrix((values, (grams.rows, grams.buckets)), (n, 1 << ft.WORD_BITS))
    ids: dict[str, int] = {}
    rows = [i for i, reply in enumerate(features.replies) for _ in reply]
    columns = [ids.setdefault(token, len(ids)) for reply in features.replies for token in reply]
    scale = np.array([1 / np.sqrt(len(reply)) for reply in features.replies for _ in reply])
    of_token = [ft.char_buckets(token) for token in ids]
    sizes = np.array([len(buckets) for buckets in of_token])
    chars = sp.csr_matrix(
        (1 / np.sqrt(np.repeat(sizes, sizes)), (np.repeat(np.arange(len(ids)), sizes), np.concatenate(of_token))),
        (len(ids), 1 << ft.CHAR_BITS),
    )
    blocks[ft.CHARS] = sp.csr_matrix((scale, (rows, columns)), (n, len(ids))) @ chars
    return blocks


def fit_words(
    dialogues: Sequence[Dialogue], scores: np.ndarray, most: int | None = MOST_WORDS
) -> dict[str, np.ndarray]:
    """
    The linear model over hashed words: ridge regression in its dual form, on scores of shape `(n, 2)`.

    The bundled scorer and an encoder's companion are such models. Returns all arrays of
    [`~ee_trl.scoring.linear.shapes`] but `knots`.
    """
    linalg, sp = (
        require(f"scipy.{part}", extra="report", purpose="fitting a linear model over words")
        for part in ("linalg", "sparse")
    )
    if most is not None and len(dialogues) > most:
        taken = np.linspace(0, len(dialogues) - 1, most).astype(np.intp)
        dialogues, scores = [dialogues[int(i)] for i in taken], scores[taken]
    features = ft.extract(dialogues)
    blocks, scales = _designs(features, sp), {}
    for name, block in blocks.items():
        documents = np.bincount(block.indices, minlength=block.shape[1])
        rarity = np.log((1 + len(dialogues)) / (1 + documents)) + 1
        scales[name] = np.where(documents >= MIN_DOCUMENTS, rarity, 0.0)
        blocks[name] = block @ sp.diags_array(scales[name])
    centre, spread = features.surface.mean(axis=0), np.maximum(features.surface.std(axis=0), 1e-9)
    blocks["surface"] = sp.csr_matrix((features.surface - centre) / spread)
    scales["surface"] = 1 / spread
    kernel = np.zeros((len(dialogues), len(dialogues)))
    for name, block in blocks.items():
        factor = np.sqrt(BLOCK_VARIANCE[name] / max(block.multiply(block).sum(axis=1).mean(), 1e-12))
        blocks[name] = block * factor
        scales[name] = scales[name] * factor
        kernel += (blocks[name] @ blocks[name].T).toarray()
    wanted = targets(scores)
    kernel[np.diag_indices_from(kernel)] += RIDGE
    dual = linalg.cho_solve(linalg.cho_factor(kernel, overwrite_a=True), wanted - wanted.mean(axis=0))
    weights = {name: scales[name][:, None] * (block.T @ dual) for name, block in blocks.items()}
    arrays = {name: weight.astype(np.float16) for name, weight in weights.items() if name != "surface"}
    arrays["surface"] = weights["surface"].round(DECIMALS)
    arrays["bias"] = (wanted.mean(axis=0) - centre @ arrays["surface"]).round(DECIMALS)
    arrays["feature_version"] = np.array(ft.FEATURE_VERSION, np.int64)
    return arrays
