"""From what a user writes (`"linear"`, a folder, a hub id, an object) to a scorer."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from ..errors import ScorerError, unknown
from .base import Scorer


SCORERS = ("linear",)
"""Names of the scorers that come with the package."""

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
            The bundled scorer's name, a folder or hub repository that holds a linear scorer's files, or an object with
            `fingerprint` and `score`, which is returned as it is.
        options:
            Passed to the scorer's class.

    Raises:
        [`ScorerError`]: There is no such scorer, or it does not know an option.
    """
    check_scorer(spec)
    if not isinstance(spec, (str, os.PathLike)):
        if options:
            raise ScorerError(f"options {sorted(options)} do not go with a scorer object; give them where it is made")
        return spec
    from .linear import LinearScorer

    if options:
        raise ScorerError(
            f"the linear scorer has no option {', '.join(map(repr, sorted(options)))}; it has none at all"
        )
    if spec == "linear":
        return LinearScorer()
    folder = Path(spec)
    return LinearScorer(folder if folder.is_dir() else _from_hub(str(spec)))


def _from_hub(repo: str) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return snapshot_download(repo)
    except (HfHubHTTPError, LocalEntryNotFoundError, ConnectionError) as error:
        raise ScorerError(
            f"scorer {repo!r} is no folder here, and the hub does not give it ({type(error).__name__}). Check the "
            "name, your login (`hf auth login`) and the network, or give a folder."
        ) from error
