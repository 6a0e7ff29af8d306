"""Loading a judge, in full precision or quantized, and naming its content for the fingerprint."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...errors import ScorerError, unknown


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUANTIZATIONS = ("none", "int8", "nf4")
DTYPES = ("auto", "float32", "bfloat16", "float16")


def check_options(quantization: str, dtype: str, **counts: Any) -> None:
    """Raises [`ScorerError`] where an option is unknown, or one of the `counts` is neither `None` nor one."""
    if quantization not in QUANTIZATIONS:
        raise ScorerError(unknown("quantization", quantization, QUANTIZATIONS))
    if dtype not in DTYPES:
        raise ScorerError(unknown("dtype", dtype, DTYPES))
    for name, value in counts.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ScorerError(f"{name} {value!r} is not a whole number of at least 1")


def load_judge(
    name: str,
    tokenizer: PreTrainedTokenizerBase | None,
    quantization: str,
    dtype: str,
    device_map: str | dict[str, Any] | None,
    revision: str | None,
    trust_remote_code: bool,
) -> tuple[Any, Any]:
    """Model (in evaluation mode) and tokenizer of a hub id or folder; raises [`ScorerError`] where that fails."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if revision is not None and Path(name).is_dir():
        raise ScorerError(
            f"{name!r} is a folder, which has no revision {revision!r}; leave revision out, or give a hub id"
        )
    cuda = torch.cuda.is_available()
    resolved = ("bfloat16" if cuda else "float32") if dtype == "auto" else dtype
    options: dict[str, Any] = {"dtype": getattr(torch, resolved), "trust_remote_code": trust_remote_code}
    if revision is not None:
        options["revision"] = revision
    if quantization != "none":
        options["quantization_config"] = _quantization_config(quantization, options["dtype"])
    if device_map is not None or cuda:
        own = int(os.environ.get("LOCAL_RANK", 0))  # of several processes under torchrun or accelerate launch
        options["device_map"] = device_map if device_map is not None else {"": own % torch.cuda.device_count()}
    try:
        shared = {name: options[name] for name in ("revision", "trust_remote_code") if name in options}
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(name, **shared)
        model = AutoModelForCausalLM.from_pretrained(name, **options)
    except SafetensorError as error:
        raise ScorerError(
            f"the weights of the judge {name!r} are damaged or cut short ({error}); download or copy them again"
        ) from error
    except (OSError, ValueError, ImportError) as error:
        raise ScorerError(f"the judge {name!r} cannot be loaded: {error}") from error
    return model.eval(), tokenizer


def _no_word_of_casts(record: logging.LogRecord) -> bool:
    """Drops what bitsandbytes says of each int8 layer and batch: that it computes in float16, as it always does."""
    return not record.getMessage().startswith("MatMul8bitLt: inputs will be cast")


def _quantization_config(quantization: str, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    if quantization == "int8":
        logging.getLogger("bitsandbytes.autograd._functions").addFilter(_no_word_of_casts)
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def content_of(name: str, model: Any) -> str:
    """Names a model's content: a hub model's commit, a folder's weights by their bytes."""
    from hashlib import sha256

    folder = Path(name)
    if not folder.is_dir():
        return f"{name}@{getattr(model.config, '_commit_hash', None) or 'unknown'}"
    digest = sha256()
    for path in sorted(
        p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".json", ".model", ".jinja")
    ):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return f"local@{digest.hexdigest()[:12]}"


def weights_of(model: Any) -> str:
    """Names the content of a model that is loaded already, by its weights."""
    from hashlib import sha256

    digest = sha256(repr(type(model)).encode())
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"{type(model).__name__}@{digest.hexdigest()[:12]}"


def precision_of(model: Any, quantization: str) -> str:
    """Names what a judge computes in: `"float32"`, or quantized, with the precision of the rest: `"nf4-float32"`."""
    dtype = str(model.dtype).removeprefix("torch.")
    return dtype if quantization == "none" else f"{quantization}-{dtype}"
