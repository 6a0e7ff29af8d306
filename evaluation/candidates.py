"""What can be evaluated: a model's folder or hub id (base, LoRA adapter, composed), or a file of replies."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ee_trl.data.text_files import other_encoding
from ee_trl.errors import EmpathyError, FormatError, check_choice
from ee_trl.files import blocks_of, digest, json_digest, read_json

from .eval_set import EvalSet
from .metrics.emotion_accuracy import check_labels


MODEL, PREDICTIONS = "model", "predictions"
REPLY_COLUMNS = ("prediction", "reply")
REFERENCE_COLUMNS = ("reference", "response")
EMOTION_COLUMN = "predicted_emotion"
INDEX_COLUMN = "index"
"""The column of a report's replies that numbers the dialogues; each candidate has a column of its own."""

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Candidate:
    """A model (its path, hub id, or `(model, tokenizer)`) or a file of replies, under its name in reports."""

    name: str
    source: Any
    kind: str = MODEL


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to generate, its `description` in words, and the `fingerprint` of its content."""

    model: Any
    tokenizer: Any
    description: str = ""
    fingerprint: str = ""


@dataclass(frozen=True)
class Replies:
    """Replies in the order of an [`EvalSet`], and what made them; `emotions` are the emotions that a model named."""

    texts: Sequence[str]
    description: str = ""
    fingerprint: str = ""
    emotions: list[str] | None = None


def candidates_of(models: Any = None, predictions: Any = None) -> list[Candidate]:
    """The [`Candidate`]s that a user names, models first."""
    found = [*_named(models, MODEL), *_named(predictions, PREDICTIONS)]
    if not found:
        raise EmpathyError("nothing to evaluate: name a model or a file of replies (--model, --predictions)")
    names = [candidate.name for candidate in found]
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if twice:
        raise EmpathyError(f"two candidates are called {twice[0]!r}; rename them: first={twice[0]}, second=...")
    if INDEX_COLUMN in names:
        raise EmpathyError(f"a candidate cannot be called {INDEX_COLUMN!r}; give it another name: other=path")
    for candidate in found:
        if candidate.kind == PREDICTIONS and not Path(candidate.source).is_file():
            raise FormatError(f"no such file: {str(candidate.source)!r} (in {os.getcwd()!r})")
        if candidate.kind == MODEL and isinstance(candidate.source, (str, os.PathLike)):
            _check_model_source(os.fspath(candidate.source))
    return found


def _named(given: Any, kind: str) -> list[Candidate]:
    if given is None:
        return []
    if isinstance(given, Mapping):
        return [Candidate(str(name), source, kind) for name, source in given.items()]
    if isinstance(given, (str, os.PathLike)):
        given = [given]
    found = []
    for spec in given:
        text = os.fspath(spec)
        name, equals, source = text.partition("=")
        if not equals or Path(text).exists():
            stem = Path(text.rstrip("/"))
            name, source = (stem.name if kind == MODEL else stem.stem), text
        if not name or not source:
            raise EmpathyError(f"{text!r} is not valid; valid: name=path, or a path")
        found.append(Candidate(name, source, kind))
    return found


def _check_model_source(source: str) -> None:
    folder = Path(source)
    if folder.is_dir():
        if not (folder / "config.json").exists() and not (folder / "adapter_config.json").exists():
            raise EmpathyError(f"{source!r} has neither a model (config.json) nor an adapter (adapter_config.json)")
    elif folder.exists():
        raise EmpathyError(f"{source!r} is a file; a model is a folder or a hub id. Replies go to --predictions")
    elif source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise EmpathyError(f"no such folder: {source!r} (in {os.getcwd()!r})")


def is_adapter(source: Any) -> bool:
    """Whether a model is the folder of a LoRA adapter."""
    return isinstance(source, (str, os.PathLike)) and (Path(source) / "adapter_config.json").exists()


def load_candidate(source: Any, *, dtype: str = "auto", device: str | None = None) -> LoadedModel:
    """Loads a base model, a LoRA adapter on its base, or a mixture of experts, in evaluation mode."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from ee_trl.scoring.base import local_device
    from ee_trl.scoring.judge.loading import content_of, weights_of

    check_choice("dtype", dtype, DTYPES)
    if not isinstance(source, (str, os.PathLike)):
        model, tokenizer = source
        fingerprint = f"{weights_of(model)}+{prompting_of(model, tokenizer)}"
        return LoadedModel(model, tokenizer, _kind_of(model.config), fingerprint)
    name = os.fspath(source)
    device = device or local_device()
    resolved = ("bfloat16" if device != "cpu" else "float32") if dtype == "auto" else dtype
    options: dict[str, Any] = {"dtype": getattr(torch, resolved), "use_safetensors": True}
    adapter = Path(name) / "adapter_config.json"
    try:
        if is_adapter(source):
            base = read_json(adapter)["base_model_name_or_path"]
            inner = AutoModelForCausalLM.from_pretrained(base, **options)
            from peft import PeftModel

            if not (Path(name) / "adapter_model.safetensors").is_file():
                raise EmpathyError(
                    f"the adapter {name!r} has no adapter_model.safetensors; other weights are not read"
                )
            model = PeftModel.from_pretrained(inner, name).merge_and_unload()
            own = any((Path(name) / file).exists() for file in ("tokenizer.json", "tokenizer_config.json"))
            tokenizer = AutoTokenizer.from_pretrained(name if own else base)
            description = f"LoRA adapter on {base}"
            fingerprint = f"{content_of(name, model)}+{content_of(base, inner)}"
        else:
            config = AutoConfig.from_pretrained(name)
            model = AutoModelForCausalLM.from_pretrained(name, **options)
            tokenizer = AutoTokenizer.from_pretrained(name)
            description, fingerprint = _kind_of(config), content_of(name, model)
    except Exception as error:  # a damaged folder can raise anything
        raise EmpathyError(f"the model {name!r} cannot be loaded: {error}") from error
    return LoadedModel(model.to(device).eval(), tokenizer, description, f"{fingerprint}/{resolved}")


def prompting_of(model: Any, tokenizer: Any) -> str:
    """Identifies what maps messages to ids and ids to a reply: template, special tokens, vocabulary, end tokens."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    rules = tokenizer.get_vocab() if fast is None else json.loads(fast.to_str())
    if fast is not None:  # the last call set these two
        rules = {name: rule for name, rule in rules.items() if name not in ("padding", "truncation")}
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return f"tokenizer@{json_digest((tokenizer.chat_template, tokenizer.special_tokens_map, rules, ends))}"


def _kind_of(config: Any) -> str:
    text = config.get_text_config()
    experts = getattr(text, "num_local_experts", None) or getattr(text, "num_experts", None)
    return f"mixture of {experts} experts" if experts else "model"


def read_replies(path: str | os.PathLike[str], eval_set: EvalSet, name: str = "") -> Replies:
    """Reads a reply for each dialogue, in order; the file may also have those that a limit left out."""
    columns = _columns_of(Path(path))
    wanted = (*REPLY_COLUMNS, *([name] if name else []))
    column = next((column for column in wanted if column in columns), None)
    if column is None:
        raise FormatError(f"{str(path)!r} has no column {' or '.join(map(repr, wanted))}; it has {', '.join(columns)}")
    if len(columns[column]) == eval_set.available != len(eval_set):
        columns = {key: [values[i] for i in eval_set.rows] for key, values in columns.items()}
    texts = columns[column]
    if len(texts) != len(eval_set):
        some = f" (of {eval_set.available:,})" if eval_set.available != len(eval_set) else ""
        raise FormatError(
            f"{str(path)!r} holds {len(texts):,} replies, the evaluation set {len(eval_set):,} dialogues{some}; there "
            "must be one for each, in the same order"
        )
    for i, text in enumerate(texts):
        if text is not None and not isinstance(text, str):
            raise FormatError(f"{str(path)!r}: {column} {i} must be a text, got {text!r}")
    references = next((columns[column] for column in REFERENCE_COLUMNS if column in columns), None)
    if references is not None:
        _check_references(path, references, eval_set)
    description, fingerprint = f"replies from {Path(path).name}", f"file@{digest(blocks_of(path))}"
    return Replies([text or "" for text in texts], description, fingerprint, columns.get(EMOTION_COLUMN))


def _columns_of(path: Path) -> dict[str, list[Any]]:
    from ee_trl.data.reading import open_dataset

    if path.suffix.lower() == ".txt":
        return {REPLY_COLUMNS[0]: _lines_of(path)}
    dataset: Any = open_dataset(path, split="train")
    return {name: list(dataset[name]) for name in dataset.column_names}


def _lines_of(path: Path) -> list[str]:
    """A text file's lines. Only a newline ends a line; a reply may hold other line-breaking characters."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(other_encoding(path, option=False)) from error
    lines = text.split("\n")
    if not lines[-1]:  # after the last newline
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def _check_references(path: Any, wanted: Sequence[Any], eval_set: EvalSet) -> None:
    """Raises if a file's references differ from the set's in more than case and spaces."""

    def plain(text: Any) -> str:
        return "".join(str(text).lower().split())

    different = [i for i, (a, b) in enumerate(zip(wanted, eval_set.references, strict=True)) if plain(a) != plain(b)]
    if different:
        i = different[0]
        raise FormatError(
            f"{str(path)!r} has other references than the evaluation set in {len(different):,} of {len(eval_set):,} "
            f"rows, first in row {i}:\n  file: {wanted[i]!r}\n  set:  {eval_set.references[i]!r}\n"
            "Give the dialogues that these replies answer, in the same order, or drop the column."
        )


def check_emotions(given: Mapping[str, Replies], eval_set: EvalSet) -> None:
    """Raises [`FormatError`] for a named emotion that is unknown, if the set's own emotions are all known."""
    for name, replies in given.items():
        if replies.emotions is None or eval_set.emotion_labels is None:
            continue
        try:
            check_labels(EMOTION_COLUMN, replies.emotions)
        except (TypeError, ValueError) as error:
            raise FormatError(
                f"{name!r}, {replies.description}: {error} Correct it, drop the column, or name --metrics without "
                "emotion_accuracy."
            ) from error
