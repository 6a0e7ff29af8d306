"""A language model on this machine: loaded in full precision or quantized, and its content named."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedTokenizerBase

from ...errors import ScorerError, check_choice, check_count
from ...files import blocks_of, digest, files_digest
from ..base import local_device


logger = logging.getLogger(__name__)

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class LoadedJudge:
    """A causal language model and its tokenizer; `content` is the name of its weights."""

    model: Any
    tokenizer: Any
    content: str
    quantization: str

    @property
    def precision(self) -> str:
        """What it computes in: `"float32"`, or quantized, with the precision of the rest: `"nf4-float32"`."""
        dtype = str(self.model.dtype).removeprefix("torch.")
        return dtype if self.quantization == "none" else f"{self.quantization}-{dtype}"

    @property
    def exact(self) -> bool:
        """Whether it computes in float32 without quantization, so that numbers can be compared closely."""
        quantized = self.quantization != "none" or getattr(self.model, "is_quantized", False)
        return not quantized and self.model.dtype == torch.float32

    def max_length(self, wanted: int | None = None) -> int:
        """The longest text in tokens: the model's limit, or what the user wants where that is less."""
        limits = wanted, getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return min((limit for limit in limits if limit), default=1 << 20)

    def token_budget(self, on_a_cpu: int) -> int:
        """Tokens in one forward pass where the user gives no number."""
        return 32_768 if self.model.device.type == "cuda" else on_a_cpu


def load_judge(
    model: Any,
    tokenizer: PreTrainedTokenizerBase | None,
    quantization: str,
    dtype: str,
    device_map: str | dict[str, Any] | None,
    revision: str | None,
    trust_remote_code: bool,
    gguf_file: str | None = None,
    **counts: Any,
) -> LoadedJudge:
    """Loads a hub id or folder, or takes a model loaded already, with the options of [`~ee_trl.CausalLMScorer`]."""
    check_choice("quantization", quantization, ("none", "int8", "nf4"), ScorerError)
    check_choice("dtype", dtype, DTYPES, ScorerError)
    for name, value in counts.items():
        if value is not None:
            check_count(name, value, error=ScorerError)
    if not isinstance(model, (str, os.PathLike)):
        if tokenizer is None:
            raise ScorerError("a model that is loaded already needs its tokenizer: tokenizer=...")
        return LoadedJudge(model, tokenizer, weights_of(model), quantization)
    name = os.fspath(model)
    if gguf_file is None and name.lower().endswith(".gguf"):
        name, gguf_file = os.path.split(os.path.abspath(name))
    if gguf_file is not None and quantization != "none":
        raise ScorerError(
            f"the weights in {gguf_file} are quantized already, so quantization={quantization!r} cannot be applied to "
            "them; leave it out, or give the model that the file was made from"
        )
    if revision is not None and Path(name).is_dir():
        raise ScorerError(
            f"{name!r} is a folder, which has no revision {revision!r}; leave revision out, or give a hub id"
        )
    shared = {"trust_remote_code": trust_remote_code} | ({} if revision is None else {"revision": revision})
    where = local_device()
    resolved = getattr(torch, ("float32" if where == "cpu" else "bfloat16") if dtype == "auto" else dtype)
    options = {"dtype": resolved, **shared}
    if quantization != "none":
        options["quantization_config"] = _quantization_config(quantization, resolved)
    if device_map is None and where != "cpu":
        device_map = {"": where}
    if device_map is not None:
        options["device_map"] = device_map
    try:
        if gguf_file is not None:
            logger.warning(
                "%s is dequantized in this process: it takes the memory of %s weights. For a large model start a "
                "llama.cpp server with the file, and use the scorer 'server'", gguf_file, resolved,
            )  # fmt: skip
            model, own = load_gguf(name, gguf_file, **options)
            return LoadedJudge(model.eval(), tokenizer or own, gguf_content(name, gguf_file, model), quantization)
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(name, **shared)
        model = AutoModelForCausalLM.from_pretrained(name, use_safetensors=True, **options).eval()
    except SafetensorError as error:
        raise ScorerError(
            f"the weights of the judge {name!r} are damaged or cut short ({error}); download or copy them again"
        ) from error
    except Exception as error:  # a damaged folder can raise anything
        raise ScorerError(f"the judge {name!r} cannot be loaded: {error}") from error
    return LoadedJudge(model, tokenizer, content_of(name, model), quantization)


def load_gguf(source: str, gguf_file: str, **options: Any) -> tuple[Any, Any]:
    """
    The model and tokenizer of a GGUF file in a folder or hub repository, with all weights dequantized.

    Raises [`ScorerError`] where the package `gguf` is not installed; `options` go to `from_pretrained`.
    """
    if find_spec("gguf") is None:
        raise ScorerError(f"the GGUF file {gguf_file} needs the package gguf. Install it with: pip install gguf")
    # some versions of transformers keep the weights packed unless they are told
    packed = getattr(transformers, "GgufConfig", None)
    told = {} if packed is None else {"quantization_config": packed(dequantize=True)}
    model: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf_file, **options, **told)
    if getattr(model.config, "quantization_config", None) is not None:  # or `save_pretrained` refuses
        del model.config.quantization_config
    model.is_quantized, model.hf_quantizer = False, None
    passed = {name: value for name, value in options.items() if name in ("revision", "trust_remote_code")}
    return model, AutoTokenizer.from_pretrained(source, gguf_file=gguf_file, **passed)


def gguf_content(source: str, gguf_file: str, model: Any) -> str:
    """Names the content of a GGUF file: by its bytes, or by the commit of its hub repository."""
    path = Path(source) / gguf_file
    if path.is_file():
        return f"gguf@{digest(blocks_of(path))}"
    return f"{source}/{gguf_file}@{getattr(model.config, '_commit_hash', None) or 'unknown'}"


def _quantization_config(quantization: str, dtype: torch.dtype) -> Any:
    if quantization == "int8":
        logging.getLogger("bitsandbytes.autograd._functions").addFilter(_not_about_casts)
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _not_about_casts(record: logging.LogRecord) -> bool:
    """Drops the line of bitsandbytes for each int8 layer and batch: it computes in float16, as it always does."""
    return not record.getMessage().startswith("MatMul8bitLt: inputs will be cast")


def content_of(name: str, model: Any) -> str:
    """Names a model's content: a hub model's commit, a folder's weights by their bytes."""
    folder = Path(name)
    if not folder.is_dir():
        return f"{name}@{getattr(model.config, '_commit_hash', None) or 'unknown'}"
    endings, reports = (".safetensors", ".bin", ".json", ".model", ".jinja"), ("check.json", "agreement.json")
    files = sorted(path for path in folder.iterdir() if path.suffix in endings and path.name not in reports)
    return f"local@{files_digest(files, 12)}"


def weights_of(model: Any) -> str:
    """Names the content of a model that is loaded already, by its weights."""

    def blocks() -> Iterator[bytes]:
        yield repr(type(model)).encode()
        for key, tensor in sorted(model.state_dict().items()):
            yield key.encode()
            yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()

    return f"{type(model).__name__}@{digest(blocks())}"
