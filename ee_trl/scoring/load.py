"""From what a user writes (`"linear"`, a folder, a hub id, an object) to a scorer."""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path
from typing import Any

from ..errors import ScorerError, unknown
from .base import Scorer


SCORERS = ("linear", "server")
"""Names of the scorers that come with the package: the linear one, and a judge behind a server."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def check_scorer(spec: Any) -> None:
    """Raises [`ScorerError`] where `spec` cannot be a scorer, without loading one."""
    if isinstance(spec, os.PathLike):
        spec = os.fspath(spec)
    if isinstance(spec, str):
        if spec not in SCORERS and not (spec and Path(spec).is_dir()) and not _HUB_ID.fullmatch(spec):
            raise ScorerError(f"{unknown('scorer', spec, SCORERS)} A folder or a hub id (owner/name) goes as well.")
    elif isinstance(spec, type):
        raise ScorerError(f"{spec!r} is a class; give an object of it: {spec.__name__}(...)")
    elif not isinstance(spec, Scorer) or not isinstance(spec.fingerprint, str) or not callable(spec.score):
        raise ScorerError(
            f"{spec!r} is not a scorer: it needs a `fingerprint` (str) and a method `score(dialogues)` that gives an "
            "array of shape (n, 2)"
        )
    elif not spec.fingerprint.strip() or len(spec.fingerprint.splitlines()) != 1:
        raise ScorerError(f"the fingerprint {spec.fingerprint!r} of {spec!r} is not one line of text")


def load_scorer(spec: str | os.PathLike[str] | Scorer = "linear", **options: Any) -> Scorer:
    """
    Loads a scorer.

    Args:
        spec (`str`, `os.PathLike` or [`Scorer`], *optional*, defaults to `"linear"`):
            `"linear"`, the bundled scorer; `"server"`, a judge behind a server ([`ServerScorer`], with `model=...`);
            a folder or hub id of a causal language model ([`CausalLMScorer`]) or of a linear scorer; or an object with
            `fingerprint` and `score`, which is returned as it is.
        options:
            Passed to the scorer's class: for a judge `quantization`, `dtype`, `rubric`, ...

    Raises:
        [`ScorerError`]: There is no such scorer, or it does not know an option.
    """
    check_scorer(spec)
    if not isinstance(spec, (str, os.PathLike)):
        if options:
            raise ScorerError(f"options {sorted(options)} do not go with a scorer object; give them where it is made")
        return spec
    if spec == "server":
        from .server import ServerScorer

        _check_options(options, ServerScorer, "of the scorer 'server'")
        if "model" not in options:
            raise ScorerError("the scorer 'server' needs the name of the model on it: model=... (--model NAME)")
        return ServerScorer(**options)
    if spec == "linear" or _is_linear(spec):
        from .linear import LinearScorer

        if options:
            raise ScorerError(f"the linear scorer has no option {', '.join(map(repr, sorted(options)))}; it has none")
        return LinearScorer() if spec == "linear" else LinearScorer(_folder_of(spec))
    from .causal_lm import CausalLMScorer

    _check_options(options, CausalLMScorer, "of a judge", without="model")
    return CausalLMScorer(spec, **options)


def _check_options(options: dict[str, Any], scorer: type, whose: str, without: str = "") -> None:
    known = [name for name in inspect.signature(scorer).parameters if name != without]
    for name in options:
        if name not in known:
            raise ScorerError(unknown(f"option {whose}", name, known))


_WEIGHTS = "weights.npz"  # a linear scorer's file; whatever has none is taken for a language model


def _is_linear(spec: str | os.PathLike[str]) -> bool:
    from huggingface_hub import file_exists, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    folder = Path(spec)
    if folder.is_dir():
        if not (folder / _WEIGHTS).exists() and not (folder / "config.json").exists():
            raise ScorerError(
                f"{str(spec)!r} holds neither a linear scorer ({_WEIGHTS}) nor a language model (config.json)"
            )
        return (folder / _WEIGHTS).exists()
    if isinstance(try_to_load_from_cache(str(spec), _WEIGHTS), str):
        return True
    try:
        return file_exists(str(spec), _WEIGHTS)
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError):
        return False  # the judge says what is wrong, if anything is


def _folder_of(spec: str | os.PathLike[str]) -> str:
    from huggingface_hub import snapshot_download

    return os.fspath(spec) if Path(spec).is_dir() else snapshot_download(str(spec), allow_patterns=["*.npz", "*.json"])
