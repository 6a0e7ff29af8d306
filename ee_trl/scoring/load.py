"""[`load_scorer`] makes a scorer, also a cascade, from what a user writes."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from ..data.samples import GIVEN
from ..errors import ScorerError, check_choice
from .base import Scorer
from .cascade import CascadeScorer
from .judged import calibration_of
from .kinds import DEFAULT_SCORER, arguments_of, check_options, load_single, options_of


logger = logging.getLogger(__name__)


def load_scorer(spec: str | os.PathLike[str] | Scorer = DEFAULT_SCORER, **options: Any) -> Scorer:
    """
    Loads a scorer.

    Args:
        spec (`str`, `os.PathLike` or [`Scorer`], *optional*, defaults to [`~ee_trl.scoring.kinds.DEFAULT_SCORER`]):
            `"linear"`, the bundled scorer; `"server"`, a judge behind a server ([`ServerScorer`], with `model=...`);
            `"cascade"`, a cheap scorer before a judge ([`CascadeScorer`], with `cheap=...`, `judge=...`); a folder,
            hub id or GGUF file of a causal language model ([`CausalLMScorer`]), a folder or hub id of a distilled
            scorer ([`EncoderScorer`]) or of a linear one; or an object with `fingerprint` and `score`, which is
            returned as it is.
        options:
            Passed to the scorer's class: for a judge `quantization`, `dtype`, `rubric`, ... The `calibration` of a
            cascade may be the path of judged samples.

    Raises:
        [`ScorerError`]: There is no such scorer, or it does not know an option.
    """
    if spec != "cascade":
        return load_single(spec, **options)
    check_options(options, CascadeScorer, "of the scorer 'cascade'")
    for name, flag in (("cheap", "--cheap"), ("judge", "--judge")):
        if name not in options:
            raise ScorerError(f"the scorer 'cascade' needs {name}=..., a scorer ({flag} NAME)")
    source = options.get("calibration")
    if not isinstance(source, (str, os.PathLike)):
        return CascadeScorer(**options)
    judged = calibration_of(source)
    cascade = CascadeScorer(**{**options, "calibration": (judged.dialogues, judged.scores)})
    judge = cascade.judge.fingerprint
    if others := [name for name in judged.judges if name not in (GIVEN, judge)]:
        raise ScorerError(
            f"the calibration samples of {os.fspath(source)!r} were scored by {', '.join(others)}, and the judge is "
            f"{judge}: a promise made from them would not hold. Have this judge score them: ee-trl score DIALOGUES "
            "--scorer JUDGE -o judged.parquet"
        )
    if GIVEN in judged.judges:
        logger.warning("%s does not say who scored it; the promise holds if it was %s", os.fspath(source), judge)
    return cascade


def check_scorer_options(spec: Any, options: Mapping[str, Any], user: str, own: list[str]) -> None:
    """Raises [`ScorerError`] for an option that neither the scorer nor its `user` (a class) has; loads no scorer."""
    if not options:
        return
    cascade = spec == "cascade"
    whose, known = ("of the scorer 'cascade'", arguments_of(CascadeScorer)) if cascade else options_of(spec)
    for name in options:
        check_choice(f"option {whose} or of {user}", name, [*own, *known], ScorerError)
    for part in ("cheap", "judge") if cascade else ():
        check_scorer_options(options.get(part), options.get(f"{part}_options") or {}, f"{part}_options", [])
