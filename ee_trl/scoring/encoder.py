"""The distilled scorer: an encoder with a head of two outputs, fitted to a judge's scores by [`ee_trl.distill`]."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..axes import AXES
from ..data.dialogue import Dialogue
from ..errors import ScorerError, check_choice, check_count
from ..files import read_json, write_json
from .base import BatchedScorer, ScoredBatch, folder_of, local_device
from .features import extract, tokenise
from .flags import RULE_FLAGS, RuleFlags, check_other_language
from .judge.loading import DTYPES, content_of
from .linear import RawModel, calibrate, fingerprint_of, load_weights


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

WORDS_FILE = "words.npz"
SETTINGS_FILE = "empathy_scorer.json"
"""Beside the model: how dialogues are read and raw outputs become scores. Every distilled scorer has this file."""

CROSS_ENCODER, BI_ENCODER = "encoder-1", "bi-encoder-1"
STEP = 16  # widths of batches are multiples of it

Encoded = dict[str, list[int]]
"""The ids of one dialogue, as the tokenizer names them (`input_ids`, `token_type_ids`, ...), without padding."""


@dataclass(frozen=True)
class EncoderInputs:
    """
    How a dialogue becomes a pair of segments: the turns so far, and the reply.

    A dialogue of more than `max_length` tokens loses its oldest words. A long reply keeps its beginning: half of the
    tokens, or more if the context leaves room. The `text` is `"canonical"` (lower case, English contractions written
    out, punctuation as separate tokens, so that natural and tokenised text get the same score), or `"as_is"`, for
    other languages and case-sensitive encoders.
    """

    max_length: int = 128
    text: str = "canonical"

    def __post_init__(self) -> None:
        check_choice("text", self.text, ("canonical", "as_is"), ScorerError)
        check_count("max_length", self.max_length, STEP, ScorerError)

    def encode(self, tokenizer: PreTrainedTokenizerBase, dialogues: Sequence[Dialogue]) -> list[Encoded]:
        """The ids of dialogues; their text cannot become special tokens."""
        contexts, replies = self.ids(tokenizer, dialogues)
        pair = _Pair.of(tokenizer)
        return [pair.joined(context, reply, self.max_length) for context, reply in zip(contexts, replies, strict=True)]

    def ids(
        self, tokenizer: PreTrainedTokenizerBase, dialogues: Sequence[Dialogue]
    ) -> tuple[list[list[int]], list[list[int]]]:
        """The ids of the contexts and of the replies, whole and without special tokens."""
        if not dialogues:
            return [], []
        contexts = _ids(tokenizer, [self._context(d) for d in dialogues])
        return contexts, _ids(tokenizer, [self._read(d.response) for d in dialogues])

    def _context(self, dialogue: Dialogue) -> str:
        turns = zip(dialogue.roles, dialogue.context, strict=True)
        return " ".join(f"{'<' if role == 'assistant' else '>'} {self._read(text)}" for role, text in turns)

    def _read(self, text: str) -> str:
        return " ".join(tokenise(text) if self.text == "canonical" else text.split())


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


@dataclass(frozen=True)
class _Pair:
    """The special tokens before, between and after two segments, and the segments' token types, if there are any."""

    before: list[int]
    between: list[int]
    after: list[int]
    types: list[int] | None

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> _Pair:
        """Joins two words to find the tokens, since tokenizers have no attribute for them."""
        first, second = _ids(tokenizer, ["no", "yes"])
        tried = tokenizer("no", "yes", verbose=False)
        ids = tried["input_ids"]
        starts = [i for i in range(len(ids)) if ids[i : i + len(first)] == first]
        ends = [i for i in range(len(ids)) if ids[i : i + len(second)] == second]
        if not first or not second or not starts or not ends or ends[-1] < starts[0] + len(first):
            raise ScorerError(f"{type(tokenizer).__name__} does not join two texts; give an encoder that reads pairs")
        start, end = starts[0] + len(first), ends[-1]
        types = tried.get("token_type_ids")
        return cls(ids[: starts[0]], ids[start:end], ids[end + len(second) :], types and [types[0], types[-1]])

    def joined(self, context: list[int], reply: list[int], max_length: int) -> Encoded:
        """A reply keeps its beginning, within half the room or what the context leaves; a context keeps its end."""
        room = max_length - len(self.before) - len(self.between) - len(self.after)
        reply = reply[: max(room // 2, room - len(context))]
        context = context[max(0, len(context) + len(reply) - room) :]
        first, second = [*self.before, *context, *self.between], [*reply, *self.after]
        found = {"input_ids": first + second}
        if self.types:
            found["token_type_ids"] = [self.types[0]] * len(first) + [self.types[1]] * len(second)
        return found


def fixed_batches(lengths: Sequence[int], token_budget: int, max_length: int) -> Iterator[tuple[int, int, list[int]]]:
    """
    Batches of texts with these lengths, the longest first: rows, width, and the numbers of the texts.

    All batches of one width have the same number of rows, so that the same kernels add the same numbers in the same
    order; copies of a text fill the unused rows. A single text may exceed the `token_budget`.
    """
    by_width: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        by_width.setdefault(min(-(-length // STEP) * STEP, max_length), []).append(i)
    for width in sorted(by_width, reverse=True):
        rows = max(1, token_budget // width)
        members = by_width[width]
        for start in range(0, len(members), rows):
            yield rows, width, members[start : start + rows]


def padded(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Encoded], rows: int, width: int
) -> dict[str, torch.Tensor]:
    """Tensors of shape `(rows, width)`: the texts, then copies of the first of them; padded on the right, masked."""
    full = [*texts, *[texts[0]] * (rows - len(texts))]
    fixed: dict[str, Any] = {"padding": "max_length", "max_length": width, "padding_side": "right"}
    return dict(tokenizer.pad(full, **fixed, return_attention_mask=True, return_tensors="pt"))


def output_batches(
    model: Any, tokenizer: Any, texts: Sequence[Encoded], token_budget: int, max_length: int
) -> Iterator[tuple[list[int], np.ndarray, int]]:
    """For each batch the numbers of the texts, the model's outputs `(b, 2)`, and the tokens with padding."""
    for rows, width, members in fixed_batches([len(t["input_ids"]) for t in texts], token_budget, max_length):
        batch = padded(tokenizer, [texts[i] for i in members], rows, width)
        with torch.inference_mode():
            logits = model(**{name: ids.to(model.device) for name, ids in batch.items()}).logits
        yield members, logits.double().cpu().numpy()[: len(members)], rows * width


def raw_outputs(model: Any, tokenizer: Any, texts: Sequence[Encoded], token_budget: int, max_length: int) -> Any:
    """The model's outputs for encoded texts, shape `(n, 2)`, in batches of fixed shape."""
    found = np.empty((len(texts), len(AXES)))
    for members, outputs, _ in output_batches(model, tokenizer, texts, token_budget, max_length):
        found[members] = outputs
    return found


@dataclass(frozen=True)
class EncoderSettings:
    """What a distilled scorer needs besides its weights."""

    inputs: EncoderInputs
    knots: np.ndarray  # (2, 11), see `linear.calibrate`
    words: float = 0.0  # share of a linear model over words in the raw prediction
    flags: tuple[str, ...] = ()  # those of a bi-encoder, see `biencoder`
    cuts: tuple[float, ...] = ()  # the log odds from which each of them is given

    @property
    def layout(self) -> str:
        """Names the kind of scorer, and changes when scores do."""
        return BI_ENCODER if self.flags else CROSS_ENCODER

    def save(self, folder: Path) -> None:
        """Writes [`SETTINGS_FILE`]."""
        made = {"layout": self.layout, "axes": list(AXES), "inputs": asdict(self.inputs), "words": self.words}
        if self.flags:
            made |= {"flags": list(self.flags), "cuts": list(self.cuts)}
        write_json(folder / SETTINGS_FILE, {**made, "knots": self.knots.tolist()})

    @classmethod
    def load(cls, folder: Path) -> EncoderSettings:
        """Reads [`SETTINGS_FILE`]; raises [`ScorerError`] where it is missing, damaged or of another version."""
        path = folder / SETTINGS_FILE
        try:
            found = read_json(path)
            knots = np.array(found["knots"], np.float64)
            inputs, layout, words = EncoderInputs(**found["inputs"]), found["layout"], float(found["words"])
            flags, cuts = (tuple(found.get(name, ())) for name in ("flags", "cuts"))
        except FileNotFoundError:
            remedy = "give a folder that `ee-trl distill` wrote"
            raise ScorerError(f"no {SETTINGS_FILE} in {str(folder)!r}; {remedy}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ScorerError(f"{str(path)!r} is damaged ({error}); run `ee-trl distill` again") from error
        if len(cuts) != len(flags) or not all(isinstance(cut, float) for cut in cuts):
            raise ScorerError(f"{str(path)!r} does not have a cut for each flag; run `ee-trl distill` again")
        if layout != (BI_ENCODER if flags else CROSS_ENCODER):
            valid = f"{CROSS_ENCODER!r} and {BI_ENCODER!r}"
            raise ScorerError(f"{str(path)!r} has layout {layout!r}, this ee-trl reads {valid}; distil again")
        if knots.shape != (len(AXES), 11) or not (np.diff(knots, axis=1) > 0).all():
            raise ScorerError(
                f"{str(path)!r}: the knots do not increase or are not (2, 11); run `ee-trl distill` again"
            )
        return cls(inputs, knots, words, flags, cuts)


@dataclass(frozen=True)
class Predicted:
    """What a model made of `b` of the dialogues that it was given."""

    members: list[int]  # which of the dialogues these are, by position
    axes: np.ndarray  # (b, 2) raw predictions, without the words
    tokens: int
    forward_tokens: int
    details: dict[str, np.ndarray] = field(default_factory=dict)
    flags: list[str | None] | None = None


class EncoderScorer(BatchedScorer):
    """
    Scores dialogues with a distilled encoder.

    A score does not depend on batch mates, order or batch size, to the last bit: all batches of one width have one
    shape. A single dialogue thus costs a whole batch.

    Args:
        path (`str` or `os.PathLike`): A folder that [`ee_trl.distill`] wrote, or the hub id of one.
        dtype (`str`, *optional*, defaults to `"auto"`):
            `"float32"`, `"bfloat16"`, `"float16"`, or `"auto"`: bfloat16 on a GPU and on CPUs that compute in it
            (AVX512-BF16, AMX), else float32. The head always computes in float32.
        quantization (`str`, *optional*, defaults to `"none"`): Or `"int8"` (bitsandbytes) for all but the head.
        device (`str`, *optional*): By default the process' own GPU, else the CPU.
        revision (`str`, *optional*): Branch, tag or commit of a hub id.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether a hub model's code may run.
        token_budget (`int`, *optional*):
            Tokens in one forward pass, padding included; by default 1,024 on a CPU and 16,384 on a GPU. Another budget
            changes the last digits of scores, so it is part of the fingerprint.
        other_language (`str`, *optional*, defaults to `"flag"`):
            See [`~ee_trl.scoring.flags.check_other_language`]; only a scorer of canonical text flags.

    Raises:
        [`ScorerError`]: The folder is not a distilled scorer, or an option is unknown.
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
        other_language: str = "flag",
    ) -> None:
        unscored = check_other_language(other_language)
        check_choice("dtype", dtype, DTYPES, ScorerError)
        check_choice("quantization", quantization, ("none", "int8"), ScorerError)
        if token_budget is not None:
            check_count("token_budget", token_budget, error=ScorerError)
        folder = folder_of(path, revision)
        self.settings = EncoderSettings.load(folder)
        if unscored and self.settings.inputs.text != "canonical":
            raise ScorerError(f"the scorer {os.fspath(path)!r} may read any language; leave other_language out")
        self._rules = RuleFlags(other_language)
        where = torch.device(device or local_device())
        precision = _precision(dtype, where)
        self.tokenizer, self.model = self._loaded(folder, precision, quantization, where, trust_remote_code)
        self.token_budget = token_budget or (16_384 if where.type == "cuda" else 1_024)
        content = content_of(os.fspath(folder), self.model)
        self._words: RawModel | None = None
        if self.settings.words:
            weights = load_weights(folder, WORDS_FILE)
            self._words = RawModel(weights)
            content += f"+{fingerprint_of(weights)}"
        computed = quantization if quantization != "none" else str(precision).removeprefix("torch.")
        self.fingerprint = f"{self.settings.layout}/{content}/{computed}/budget:{self.token_budget}{unscored}"

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags that it may give: the model's own, and those by rule where it reads canonical text."""
        by_rule = RULE_FLAGS if self.settings.inputs.text == "canonical" else ()
        return tuple(dict.fromkeys((*self.settings.flags, *by_rule)))

    def score_batches(self, dialogues: Sequence[Dialogue]) -> Iterator[ScoredBatch]:
        """A [`ScoredBatch`] after each forward pass, the longest dialogues first."""
        for found in self._predicted(dialogues):
            own = [dialogues[i] for i in found.members]
            scores = calibrate(self._with_words(found.axes, own), self.settings.knots)
            batch = ScoredBatch(
                found.members, scores, None, found.details, found.tokens, found.forward_tokens, found.flags
            )
            canonical = self.settings.inputs.text == "canonical"
            yield self._rules.applied(batch, own, [tokenise(d.response) for d in own]) if canonical else batch

    def raw(self, dialogues: Sequence[Dialogue]) -> np.ndarray:
        """Predictions before calibration, shape `(n, 2)`."""
        raw = np.empty((len(dialogues), len(AXES)))
        for found in self._predicted(dialogues):
            raw[found.members] = found.axes
        return self._with_words(raw, dialogues)

    def _predicted(self, dialogues: Sequence[Dialogue]) -> Iterator[Predicted]:
        inputs = self.settings.inputs
        texts = inputs.encode(self.tokenizer, dialogues)
        batches = output_batches(self.model, self.tokenizer, texts, self.token_budget, inputs.max_length)
        for members, raw, forward_tokens in batches:
            yield Predicted(members, raw, sum(len(texts[i]["input_ids"]) for i in members), forward_tokens)

    def _loaded(
        self, folder: Path, dtype: torch.dtype, quantization: str, device: torch.device, trust_remote_code: bool
    ) -> tuple[PreTrainedTokenizerBase, Any]:
        """The tokenizer and the model, with its head in float32."""
        from transformers import AutoModelForSequenceClassification as Kind

        heads = (
            list(heads_of(loaded(Kind, folder, torch.device("cpu"), trust_remote_code)))
            if quantization == "int8"
            else []
        )
        model = loaded(Kind, folder, device, trust_remote_code, quantization, heads)
        return tokenizer_of(folder, trust_remote_code), with_head_in_float32(model, dtype, quantization)

    def _with_words(self, raw: np.ndarray, dialogues: Sequence[Dialogue]) -> np.ndarray:
        return raw if self._words is None else mixed(raw, self._words.predict(extract(dialogues)), self.settings.words)


def mixed(raw: np.ndarray, by_words: np.ndarray, share: float) -> np.ndarray:
    """The mean of both predictions, with the weight `share` on the linear model's (`by_words`)."""
    return (1 - share) * raw + share * by_words


def computes_in_bfloat16() -> bool:
    """Whether this machine's CPU computes in bfloat16, rather than emulating it."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_tile"))


def fast_dtype(dtype: torch.dtype, device: str) -> torch.dtype:
    """A model's type, or float32 where the type is one that this machine's CPU only emulates; says so in the log."""
    emulated = dtype == torch.float16 or (dtype == torch.bfloat16 and not computes_in_bfloat16())
    if device != "cpu" or not emulated:
        return dtype
    name = str(dtype).removeprefix("torch.")
    logger.warning("This CPU only emulates %s, many times slower: the model computes in float32 here.", name)
    return torch.float32


def _precision(dtype: str, device: torch.device) -> torch.dtype:
    if dtype != "auto":
        return getattr(torch, dtype)
    return torch.bfloat16 if device.type == "cuda" or computes_in_bfloat16() else torch.float32


def tokenizer_of(folder: Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """A distilled scorer's tokenizer."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # a damaged folder can raise anything
        raise _not_loaded(folder, error) from error


def loaded(
    kind: Any,
    folder: Path,
    device: torch.device,
    trust_remote_code: bool,
    quantization: str = "none",
    heads: Sequence[str] = (),
    **options: Any,
) -> Any:
    """A distilled scorer's model in float32, or in int8 but for its `heads`; `kind` is a class like `AutoModel`."""
    from transformers import BitsAndBytesConfig

    options |= {"dtype": torch.float32, "trust_remote_code": trust_remote_code, "use_safetensors": True}
    if quantization == "int8":
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(heads))
        options |= {"device_map": {"": device}, "dtype": torch.float16}  # what bitsandbytes computes in
    try:
        model, told = kind.from_pretrained(folder, output_loading_info=True, **options)
    except Exception as error:  # a damaged folder can raise anything
        raise _not_loaded(folder, error) from error
    if missing := sorted(name for name in told["missing_keys"] if "pooler" not in name):  # they are random numbers now
        raise _not_loaded(folder, f"it lacks the weights {', '.join(missing[:3])}; run `ee-trl distill` again")
    model.eval()
    return model if quantization == "int8" else model.to(device)


def _not_loaded(folder: Path, error: object) -> ScorerError:
    return ScorerError(f"the distilled scorer {str(folder)!r} cannot be loaded: {error}")


def with_head_in_float32(model: Any, dtype: torch.dtype, quantization: str = "none") -> Any:
    """The model with its encoder in `dtype` (unless it is quantized) and its head in float32, which costs nothing."""
    if quantization == "none":
        model.base_model.to(dtype)
    for head in heads_of(model).values():
        head.float().register_forward_pre_hook(_in_float32)
    return model


def heads_of(model: Any) -> dict[str, torch.nn.Module]:
    """The modules with weights that follow the encoder, by name."""
    beside = {name: child for name, child in model.named_children() if name != model.base_model_prefix}
    return {name: child for name, child in beside.items() if any(True for _ in child.parameters())}


def _in_float32(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in inputs)
