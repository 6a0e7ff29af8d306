"""From what a user writes (`"linear"`, a folder, a hub id, an object) to a scorer."""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path
from typing import Any

from ..errors import ScorerError, unknown
from .base import Scorer


SCORERS = ("linear", "server", "cascade")
"""Names of the scorers that come with the package: the linear one, a judge behind a server, a cheap scorer before a
judge."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def check_scorer(spec: Any) -> None:
    """Raises [`ScorerError`] where `spec` cannot be a scorer, without loading one."""
    if isinstance(spec, os.PathLike):
        spec = os.fspath(spec)
    if isinstance(spec, str):
        if spec in SCORERS or (spec and Path(spec).is_dir()):
            return
        if spec.startswith((".", "/", "~")):
            raise ScorerError(f"there is no folder {spec!r} (in {os.getcwd()!r}) with a scorer or a language model")
        if not _HUB_ID.fullmatch(spec):
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
            `"cascade"`, a cheap scorer before a judge ([`CascadeScorer`], with `cheap=...`, `judge=...`); a folder or
            hub id of a causal language model ([`CausalLMScorer`]), of a distilled scorer ([`EncoderScorer`]) or of a
            linear one; or an object with `fingerprint` and `score`, which is returned as it is.
        options:
            Passed to the scorer's class: for a judge `quantization`, `dtype`, `rubric`, ... The `calibration` of a
            cascade may be the path of judged samples.

    Raises:
        [`ScorerError`]: There is no such scorer, or it does not know an option.
    """
    check_scorer(spec)
    if not isinstance(spec, (str, os.PathLike)):
        if options:
            raise ScorerError(f"options {sorted(options)} do not go with a scorer object; give them where it is made")
        return spec
    if spec == "server":
        from .judge.server import ServerScorer

        _check_options(options, ServerScorer, "of the scorer 'server'")
        if "model" not in options:
            raise ScorerError("the scorer 'server' needs the name of the model on it: model=... (--model NAME)")
        return ServerScorer(**options)
    if spec == "cascade":
        return _cascade(options)
    kind = "linear" if spec == "linear" else _kind_of(spec)
    if kind == "linear":
        from .linear import LinearScorer

        if options:
            raise ScorerError(f"the linear scorer has no option {', '.join(map(repr, sorted(options)))}; it has none")
        return LinearScorer() if spec == "linear" else LinearScorer(_folder_of(spec))
    if kind == "encoder":
        from .encoder import EncoderScorer

        _check_options(options, EncoderScorer, "of a distilled scorer", without="path")
        return EncoderScorer(spec, **options)
    from .judge.model import CausalLMScorer

    _check_options(options, CausalLMScorer, "of a judge", without="model")
    return CausalLMScorer(spec, **options)


def _cascade(options: dict[str, Any]) -> Scorer:
    from .cascade import CascadeScorer

    _check_options(options, CascadeScorer, "of the scorer 'cascade'")
    for name, flag in (("cheap", "--cheap"), ("judge", "--judge")):
        if name not in options:
            raise ScorerError(f"the scorer 'cascade' needs {name}=..., a scorer ({flag} NAME)")
    source = options.get("calibration")
    if not isinstance(source, (str, os.PathLike)):
        return CascadeScorer(**options)
    from .judged import calibration_of

    *calibration, judges = calibration_of(source)
    scorer = CascadeScorer(**{**options, "calibration": tuple(calibration)})
    scorer.check_judges(judges, os.fspath(source))
    return scorer


def _check_options(options: dict[str, Any], scorer: type, whose: str, without: str = "") -> None:
    known = [name for name in inspect.signature(scorer).parameters if name != without]
    for name in options:
        if name not in known:
            raise ScorerError(unknown(f"option {whose}", name, known))


# what tells a kind of scorer by its files; whatever has none of them is taken for a language model
_MARKS = {"linear": "weights.npz", "encoder": "empathy_scorer.json"}


def kind_of_folder(folder: str | os.PathLike[str]) -> str | None:
    """`"linear"`, `"encoder"`, or `"judge"` for a folder with a language model; `None` for any other."""
    for kind, name in _MARKS.items():
        if (Path(folder) / name).exists():
            return kind
    return "judge" if (Path(folder) / "config.json").exists() else None


def _kind_of(spec: str | os.PathLike[str]) -> str:
    from huggingface_hub import file_exists, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    if Path(spec).is_dir():
        kind = kind_of_folder(spec)
        if kind is None:
            raise ScorerError(
                f"{str(spec)!r} holds neither a linear scorer ({_MARKS['linear']}), nor a distilled one "
                f"({_MARKS['encoder']}), nor a language model (config.json)"
            )
        return kind
    for kind, name in _MARKS.items():
        try:
            if isinstance(try_to_load_from_cache(str(spec), name), str):
                return kind
            if file_exists(str(spec), name):
                return kind
        except HFValidationError as error:
            raise ScorerError(f"{str(spec)!r} is no folder, and no hub id: {error}") from error
        except (HfHubHTTPError, OfflineModeIsEnabled, OSError):
            break  # the judge says what is wrong, if anything is
    return "judge"


def _folder_of(spec: str | os.PathLike[str]) -> str:
    from huggingface_hub import snapshot_download

    return os.fspath(spec) if Path(spec).is_dir() else snapshot_download(str(spec), allow_patterns=["*.npz", "*.json"])
