"""The kinds of scorers, and how one is loaded from what a user writes: `"linear"`, a folder, a hub id, an object."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import ScorerError, check_choice, unknown
from .base import Scorer, folder_of


SCORERS = ("minilm", "linear", "server", "cascade")
"""Scorers that have a name: the two bundled ones, a judge behind a server, a cheap scorer before a judge."""

DISTILLED = ("encoder", "bi-encoder")
"""The kinds of folders that `ee-trl distill` writes."""

DEFAULT_SCORER = "minilm"
"""The scorer wherever none is named."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# the file that identifies each kind of scorer; a folder without any of them counts as a language model
_MARKS = {"linear": "weights.npz", "bi-encoder": "head.safetensors", "encoder": "empathy_scorer.json"}


def check_scorer(spec: Any) -> None:
    """Raises [`ScorerError`] where `spec` cannot be a scorer, without loading one."""
    if isinstance(spec, os.PathLike):
        spec = os.fspath(spec)
    if isinstance(spec, str):
        if spec in SCORERS or (spec and (Path(spec).is_dir() or _is_gguf(spec))):
            return
        if spec.lower().endswith(".gguf"):
            raise ScorerError(f"there is no GGUF file {spec!r} (in {os.getcwd()!r})")
        if spec.startswith((".", "/", "~")):
            raise ScorerError(f"there is no folder {spec!r} (in {os.getcwd()!r}) with a scorer or a language model")
        if not _HUB_ID.fullmatch(spec):
            raise ScorerError(
                f"{unknown('scorer', spec, SCORERS)} Or give a folder, a hub id (owner/name) or a GGUF file."
            )
    elif isinstance(spec, type):
        raise ScorerError(f"{spec!r} is a class; give an object of it: {spec.__name__}(...)")
    elif not isinstance(spec, Scorer) or not isinstance(spec.fingerprint, str) or not callable(spec.score):
        raise ScorerError(
            f"{spec!r} is not a scorer: it needs a `fingerprint` (str) and a method `score(dialogues)` that gives an "
            "array of shape (n, 2)"
        )
    elif not spec.fingerprint.strip() or len(spec.fingerprint.splitlines()) != 1:
        raise ScorerError(f"the fingerprint {spec.fingerprint!r} of {spec!r} is not one line of text")


def check_options(options: Iterable[str], scorer: type, whose: str, without: str = "") -> None:
    """Raises [`ScorerError`] for an option that the class does not know."""
    for name in options:
        check_choice(f"option {whose}", name, arguments_of(scorer, without), ScorerError)


def options_of(spec: Any) -> tuple[str, list[str]]:
    """Whose the options for a scorer are, and their names; loads no model and does not ask the hub."""
    if not isinstance(spec, (str, os.PathLike)):
        return "with a scorer object", []
    kinds = [spec] if spec in SCORERS else [_kind_of(spec)] if Path(spec).is_dir() else ["judge", "encoder"]
    found = [_class_of(str(kind)) for kind in kinds]
    names = dict.fromkeys(name for scorer, _, without in found for name in arguments_of(scorer, without))
    return found[0][1], list(names)


def arguments_of(scorer: type, without: str = "") -> list[str]:
    """The names of a class's arguments."""
    return [name for name in inspect.signature(scorer).parameters if name != without]


def _class_of(kind: str) -> tuple[type[Any], str, str]:
    """The class of a kind of scorer, whose its options are, and the argument that is no option."""
    if kind == "linear":
        from .linear import LinearScorer

        return LinearScorer, "of the linear scorer", "path"
    if kind == "server":
        from .judge.server import ServerScorer

        return ServerScorer, "of the scorer 'server'", ""
    if kind in ("minilm", "bi-encoder"):
        from .biencoder import BiEncoderScorer

        return BiEncoderScorer, "of a distilled scorer", "path"
    if kind == "encoder":
        from .encoder import EncoderScorer

        return EncoderScorer, "of a distilled scorer", "path"
    from .judge.model import CausalLMScorer

    return CausalLMScorer, "of a judge", "model"


def load_single(spec: str | os.PathLike[str] | Scorer, **options: Any) -> Scorer:
    """Any scorer but a cascade; see [`~ee_trl.load_scorer`]."""
    check_scorer(spec)
    if not isinstance(spec, (str, os.PathLike)):
        if options:
            raise ScorerError(f"options {sorted(options)} do not go with a scorer object; give them where it is made")
        return spec
    if spec == "cascade":
        raise ScorerError("a cascade within a cascade cannot be given by name; give a CascadeScorer object")
    kind = spec if spec in SCORERS else _kind_of(spec)
    scorer, whose, without = _class_of(str(kind))
    check_options(options, scorer, whose, without)
    if kind == "server" and "model" not in options:
        raise ScorerError("the scorer 'server' needs the name of the model on it: model=... (--model NAME)")
    if kind == "minilm" and spec == kind:
        from .biencoder import bundled_minilm

        return bundled_minilm(**options)
    if kind in SCORERS and spec == kind:
        return scorer(**options)
    return scorer(folder_of(spec) if kind == "linear" else spec, **options)


def kind_of_folder(folder: str | os.PathLike[str]) -> str | None:
    """The kind of scorer in a folder, `"judge"` for a language model; `None` for any other folder."""
    for kind, name in _MARKS.items():
        if (Path(folder) / name).exists():
            return kind
    return "judge" if (Path(folder) / "config.json").exists() else None


def _is_gguf(spec: str | os.PathLike[str]) -> bool:
    return os.fspath(spec).lower().endswith(".gguf") and Path(spec).is_file()


def _kind_of(spec: str | os.PathLike[str]) -> str:
    if _is_gguf(spec):
        return "judge"
    if Path(spec).is_dir():
        if kind := kind_of_folder(spec):
            return kind
        raise ScorerError(
            f"{str(spec)!r} holds neither a linear scorer ({_MARKS['linear']}), nor a distilled one "
            f"({_MARKS['encoder']}), nor a language model (config.json)"
        )
    from huggingface_hub import file_exists, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    for kind, name in _MARKS.items():
        try:
            if isinstance(try_to_load_from_cache(str(spec), name), str) or file_exists(str(spec), name):
                return kind
        except HFValidationError as error:
            raise ScorerError(f"{str(spec)!r} is neither a folder nor a hub id: {error}") from error
        except (HfHubHTTPError, OfflineModeIsEnabled, OSError):
            break  # loading the judge reports what is wrong, if anything is
    return "judge"
