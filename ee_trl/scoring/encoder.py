"""The distilled scorer: an encoder with a head of two outputs, fitted to a judge's scores by [`ee_trl.distill`].

Every batch of one width has the same shape, whoever is in it, so that a score is the same to the last bit whatever a
dialogue's batch mates are; see [`~ee_trl.scoring.encoder_inputs.fixed_batches`].
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..axes import AXES
from ..data.dialogue import Dialogue
from ..errors import ScorerError, unknown
from .base import ScoredBatch, local_device
from .calibration import calibrate
from .encoder_inputs import EncoderInputs, fixed_batches, padded
from .features import extract
from .judge.loading import DTYPES, content_of
from .linear import RawModel, fingerprint_of, load_weights


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WORDS_FILE = "words.npz"
SETTINGS_FILE = "empathy_scorer.json"
"""Beside the model: how dialogues are read and raw outputs become scores. What has none is no distilled scorer."""

QUANTIZATIONS = ("none", "int8")
_LAYOUT = "encoder-1"  # changes when scores do


@dataclass(frozen=True)
class EncoderSettings:
    """
    What belongs to a distilled scorer beside its weights.

    Args:
        inputs ([`EncoderInputs`]): How a dialogue is read.
        knots (`np.ndarray` of shape `(2, 11)`): See [`~ee_trl.scoring.calibration.calibrate`].
        words (`float`, *optional*, defaults to `0.0`): Share of a linear model over words in the raw prediction.
    """

    inputs: EncoderInputs
    knots: np.ndarray
    words: float = 0.0

    def save(self, folder: Path) -> None:
        """Writes [`SETTINGS_FILE`]."""
        from ..files import write_json

        made = {"layout": _LAYOUT, "axes": list(AXES), "inputs": asdict(self.inputs), "words": self.words}
        write_json(folder / SETTINGS_FILE, {**made, "knots": self.knots.tolist()})

    @classmethod
    def load(cls, folder: Path) -> EncoderSettings:
        """Reads it; raises [`ScorerError`] where it is missing, damaged or of another version."""
        path = folder / SETTINGS_FILE
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            knots = np.array(found["knots"], np.float64)
            inputs, layout, words = EncoderInputs(**found["inputs"]), found["layout"], float(found["words"])
        except FileNotFoundError:
            raise ScorerError(
                f"no {SETTINGS_FILE} in {str(folder)!r}; give a folder that `ee-trl distill` wrote"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ScorerError(f"{str(path)!r} is damaged ({error}); run `ee-trl distill` again") from error
        if layout != _LAYOUT:
            raise ScorerError(f"{str(path)!r} is of layout {layout!r}, this ee-trl reads {_LAYOUT!r}; distil again")
        if knots.shape != (len(AXES), 11) or not (np.diff(knots, axis=1) > 0).all():
            raise ScorerError(f"{str(path)!r}: the knots are no increasing (2, 11); run `ee-trl distill` again")
        return cls(inputs, knots, words)


class EncoderScorer:
    """
    Scores dialogues with a distilled encoder.

    Args:
        path (`str` or `os.PathLike`):
            A folder that [`ee_trl.distill`] wrote, or the hub id of one.
        dtype (`str`, *optional*, defaults to `"auto"`):
            `"float32"`, `"bfloat16"`, `"float16"`, or `"auto"`: bfloat16 on a GPU and on CPUs that compute in it
            (AVX512-BF16, AMX), else float32. The head is computed in float32 always.
        quantization (`str`, *optional*, defaults to `"none"`):
            `"none"`, or `"int8"` (bitsandbytes) of everything but the head.
        device (`str`, *optional*):
            By default see [`~ee_trl.scoring.base.local_device`].
        revision (`str`, *optional*):
            Of a hub id.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether code that comes with a hub model may run.
        token_budget (`int`, *optional*):
            Tokens in one forward pass, padding included; by default 1,024 on a CPU and 16,384 on a GPU. Another budget
            is another shape, which moves scores by their last digits; it is part of the fingerprint.

    A score does not depend on batch mates, order or batch size, to the last bit: all batches of one width have one
    shape. A single dialogue thus costs a whole batch.

    Raises:
        [`ScorerError`]: The folder is no distilled scorer, or an option is unknown.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        dtype: str = "auto",
        quantization: str = "none",
        device: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        token_budget: int | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise ScorerError(unknown("dtype", dtype, DTYPES))
        if quantization not in QUANTIZATIONS:
            raise ScorerError(unknown("quantization", quantization, QUANTIZATIONS))
        if token_budget is not None and (not isinstance(token_budget, int) or token_budget < 1):
            raise ScorerError(f"token_budget {token_budget!r} is not a whole number of at least 1")
        folder = folder_of(path, revision)
        self.settings = EncoderSettings.load(folder)
        self.quantization = quantization
        where = torch.device(device or local_device())
        precision = _precision(dtype, where)
        self.model, self.tokenizer = _loaded(folder, precision, quantization, where, trust_remote_code)
        self.token_budget = token_budget or (16_384 if where.type == "cuda" else 1_024)
        self._content = content_of(os.fspath(folder), self.model)
        self._words: RawModel | None = None
        if self.settings.words:
            weights = load_weights(folder, WORDS_FILE)
            self._words = RawModel(weights)
            self._content += f"+{fingerprint_of(weights)}"
        self._precision = quantization if quantization != "none" else str(precision).removeprefix("torch.")

    @cached_property
    def fingerprint(self) -> str:
        """Names the content of the folder, the precision and the shape of batches."""
        return f"{_LAYOUT}/{self._content}/{self._precision}/budget:{self.token_budget}"

    def score(self, dialogues: Sequence[Dialogue]) -> np.ndarray:
        """Sensibility and rationality in [0, 10], shape `(n, 2)`."""
        scores = np.full((len(dialogues), len(AXES)), np.nan)
        for batch in self.score_batches(dialogues):
            scores[list(batch.indices)] = batch.scores
        return scores

    def score_batches(self, dialogues: Sequence[Dialogue]) -> Iterator[ScoredBatch]:
        """A [`ScoredBatch`] after each forward pass, the longest dialogues first."""
        inputs = self.settings.inputs
        texts = inputs.encode(self.tokenizer, dialogues)
        lengths = [len(text["input_ids"]) for text in texts]
        for rows, width, members in fixed_batches(lengths, self.token_budget, inputs.max_length):
            raw = self._forward(padded(self.tokenizer, [texts[i] for i in members], rows, width))[: len(members)]
            raw = self._with_words(raw, [dialogues[i] for i in members])
            scores = calibrate(raw, self.settings.knots)
            tokens = sum(lengths[i] for i in members)
            yield ScoredBatch(members, scores, None, {}, tokens, rows * width)

    def raw(self, dialogues: Sequence[Dialogue]) -> np.ndarray:
        """Predictions before calibration, shape `(n, 2)`."""
        texts = self.settings.inputs.encode(self.tokenizer, dialogues)
        limit = self.settings.inputs.max_length
        raw = raw_outputs(self._forward, self.tokenizer, texts, self.token_budget, limit)
        return self._with_words(raw, dialogues)

    def _with_words(self, raw: np.ndarray, dialogues: Sequence[Dialogue]) -> np.ndarray:
        return raw if self._words is None else mixed(raw, self._words.predict(extract(dialogues)), self.settings.words)

    @torch.inference_mode()
    def _forward(self, batch: dict[str, torch.Tensor]) -> np.ndarray:
        device = self.model.device
        return self.model(**{k: v.to(device) for k, v in batch.items()}).logits.double().cpu().numpy()


def mixed(raw: np.ndarray, by_words: np.ndarray, share: float) -> np.ndarray:
    """The encoder's predictions and those of the words, `share` of the latter."""
    return (1 - share) * raw + share * by_words


def raw_outputs(forward: Any, tokenizer: Any, texts: Sequence[Any], token_budget: int, max_length: int) -> np.ndarray:
    """What `forward` gives of encoded texts, shape `(n, 2)`, in batches of fixed shape."""
    found = np.empty((len(texts), len(AXES)))
    lengths = [len(text["input_ids"]) for text in texts]
    for rows, width, members in fixed_batches(lengths, token_budget, max_length):
        found[members] = forward(padded(tokenizer, [texts[i] for i in members], rows, width))[: len(members)]
    return found


def folder_of(path: str | os.PathLike[str], revision: str | None = None) -> Path:
    """A folder as it is; a hub id as it is downloaded."""
    if Path(path).is_dir():
        if revision is not None:
            raise ScorerError(f"{os.fspath(path)!r} is a folder, which has no revision {revision!r}; leave it out")
        return Path(path)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(os.fspath(path), revision=revision, ignore_patterns=["*.bin", "*.onnx"]))
    except (OSError, ValueError) as error:
        raise ScorerError(f"{os.fspath(path)!r} cannot be loaded: {error}") from error


# ---- the model -----------------------------------------------------------------------------------------------------


def computes_in_bfloat16() -> bool:
    """Whether this machine's CPU computes in bfloat16, rather than pretending to."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _precision(dtype: str, device: torch.device) -> torch.dtype:
    if dtype != "auto":
        return getattr(torch, dtype)
    return torch.bfloat16 if device.type == "cuda" or computes_in_bfloat16() else torch.float32


def _loaded(
    folder: Path, dtype: torch.dtype, quantization: str, device: torch.device, trust_remote_code: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig

    options: dict[str, Any] = {"dtype": torch.float32, "trust_remote_code": trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        if quantization == "int8":
            heads = list(heads_of(AutoModelForSequenceClassification.from_pretrained(folder, **options)))
            options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=heads)
            options |= {"device_map": {"": device}, "dtype": torch.float16}  # what bitsandbytes computes in
        model = AutoModelForSequenceClassification.from_pretrained(folder, **options).eval()
    except (OSError, ValueError, ImportError) as error:
        raise ScorerError(f"the distilled scorer {str(folder)!r} cannot be loaded: {error}") from error
    return with_head_in_float32(model if quantization == "int8" else model.to(device), dtype, quantization), tokenizer


def with_head_in_float32(model: Any, dtype: torch.dtype, quantization: str = "none") -> Any:
    """The model with its encoder in `dtype` (unless it is quantized) and its head in float32, which costs nothing."""
    if quantization == "none":
        model.base_model.to(dtype)
    for head in heads_of(model).values():
        head.float().register_forward_pre_hook(_in_float32)
    return model


def heads_of(model: Any) -> dict[str, torch.nn.Module]:
    """What follows the encoder: the modules beside the base model that have weights."""
    beside = {name: child for name, child in model.named_children() if name != model.base_model_prefix}
    return {name: child for name, child in beside.items() if any(True for _ in child.parameters())}


def _in_float32(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in inputs)
