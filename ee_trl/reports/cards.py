"""The dataset card of what was selected: by what, at which thresholds, and what was dropped of each emotion."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..axes import RATIONALITY, SENSIBILITY
from ..selection import DIFFERENCE
from .card_parts import agreement_lines, audit_text, cell, code, emotion_audit
from .licence import Licence, find_licence, given_licence
from .markdown import _table
from .model_card import hub_name
from .rubric import rubric_part
from .summary import summarise


if TYPE_CHECKING:
    from huggingface_hub import DatasetCard

    from ..data.samples import Scores
    from ..selection import Selection
    from ..selector import EmpathyDataSelector
    from .summary import Summary

CITATION = """\
@article{sun2024efficientempathy,
  title   = {Efficient-Empathy: Towards Efficient and Effective Selection of Empathy Data},
  author  = {Sun, Linzhuang and Liang, Hao and Wei, Jingxuan and Sun, Linkun and Yu, Bihui and Cui, Bin and
             Zhang, Wentao},
  journal = {arXiv preprint arXiv:2407.01937},
  year    = {2024}
}"""
OWN_TAG = "ee-trl"
TAGS = ("empathy", "empathetic-dialogue", "data-selection", OWN_TAG, "arxiv:2407.01937")
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")


def dataset_card(
    scores: Scores,
    chosen: Selection,
    summary: Summary,
    *,
    source: str | None = None,
    name: str | None = None,
    file: str | None = None,
    licence: Licence | None = None,
    rubric: str | None = None,
    agreement: str | os.PathLike[str] | None = None,
) -> DatasetCard:
    """
    The card of a selected data set, ready for the hub.

    Args:
        scores ([`~ee_trl.data.samples.Scores`]): Of all samples, with their emotions if there are any.
        chosen ([`~ee_trl.selection.Selection`]): What was kept of them, and why not the others.
        summary ([`~ee_trl.reports.summary.Summary`]): Of all of them.
        source (`str`, *optional*): What was selected from.
        name (`str`, *optional*): The card's title.
        file (`str`, *optional*): The file beside the card that holds the samples; none where `push_to_hub` says that.
        licence ([`~ee_trl.reports.licence.Licence`], *optional*): Of the source; unknown if it is not given.
        rubric (`str`, *optional*): What a judge was asked.
        agreement (`str` or `os.PathLike`, *optional*):
            The `agreement.json` of `ee-trl agreement`, with this scorer as one of its two sides.

    Returns:
        `DatasetCard` of huggingface_hub: `save(path)`, `push_to_hub(repo_id)`, `str()`.

    Raises:
        [`EmpathyError`]: The agreement is not of what made the scores.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    licence = licence or Licence()
    kept = len(chosen)
    name = " ".join((name or "").split()) or _title(chosen)
    head: dict[str, Any] = licence.metadata()
    if hub_name(source):
        head["source_datasets"] = [source]
    if file:
        head["configs"] = [{"config_name": "default", "data_files": [{"split": "train", "path": file}]}]
    data = DatasetCardData(
        **head,
        pretty_name=name,
        tags=list(TAGS),
        task_categories=["text-generation"],
        size_categories=[next((s for i, s in enumerate(_SIZES) if kept < 1_000 * 10**i), "n>1T")],
    )
    audit = emotion_audit(scores.emotions, chosen.drops)
    parts = [
        f"# {cell(name)}",
        _what(chosen, source),
        _how(chosen, summary),
        *([f"## What was dropped, by emotion\n\n{audit_text(audit)}"] if audit else []),
        _scored_by(scores.scorers, rubric, agreement),
        f"## Licence\n\n{licence.sentence()}",
        _use(file),
        f"## Citation\n\nThe method:\n\n```bibtex\n{CITATION}\n```",
    ]
    return DatasetCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")


def card_of(
    selector: EmpathyDataSelector,
    scored: Any,
    chosen: Selection,
    *,
    source: str | None = None,
    license: str | None = None,
    rubric: str | None = None,
    **options: Any,
) -> DatasetCard:
    """
    The card of what a selector chose.

    Args:
        selector ([`EmpathyDataSelector`]): What chose.
        scored (`Dataset` or `IterableDataset`): What it chose from.
        chosen ([`~ee_trl.selection.Selection`]): What it chose.
        source (`str`, *optional*): The path or name of `scored`.
        license (`str`, *optional*):
            Of the source, by its name on the hub; otherwise as the source's card or its own information says.
        rubric (`str`, *optional*): What a judge was asked, where the selector's scorer does not tell.
        options: `name`, `file` and `agreement` of [`dataset_card`].
    """
    from ..data.samples import read_scores
    from ..data.tables import read_metadata
    from .rubric import rubric_text

    scores = read_scores(scored, emotion=True)
    made_by = (read_metadata(source) or {}) if source and Path(source).is_file() else {}
    licence = given_licence(license) if license else find_licence(source, made_by.get("source"), scored)
    scorer = vars(selector).get("scorer")  # if it was needed, so that no judge is loaded for its rubric alone
    if getattr(scorer, "fingerprint", None) in scores.scorers:
        rubric = rubric_text(scorer)
    summary = summarise(scores, selector.threshold, selector.ties)
    rubric = rubric or made_by.get("rubric")
    return dataset_card(scores, chosen, summary, source=source, licence=licence, rubric=rubric, **options)


def _title(chosen: Selection) -> str:
    settings = chosen.settings
    return {
        "threshold": f"{' and '.join(settings['keep'])} samples",
        "top": f"samples highest in {_ranked_by(settings)}",
        "random": "samples drawn at random",
        "longest": "samples with the longest replies",
    }[settings["rule"]]


def _by_what(settings: Mapping[str, Any]) -> str:
    """How the samples were chosen, after "so many of so many samples"."""
    return {
        "threshold": "selected by two scores of each listener's reply",
        "top": f"those whose replies score highest in {_ranked_by(settings)}",
        "random": f"drawn at random (seed {settings.get('seed')}) from all that have scores, whatever these are",
        "longest": "those with the longest replies of all that have scores, whatever these are",
    }[settings["rule"]]


def _ranked_by(settings: Mapping[str, Any]) -> str:
    axis = str(settings.get("axis"))
    return f"{SENSIBILITY} minus {RATIONALITY}" if axis == DIFFERENCE else axis


def _what(chosen: Selection, source: str | None) -> str:
    kept, total = len(chosen), len(chosen.drops)
    of = f" of `{code(hub_name(source) or Path(source).name)}`" if source else ""
    return (
        f"**{kept:,} of {total:,} samples{of} ({kept / max(total, 1):.1%})**, {_by_what(chosen.settings)}. "
        "The scores go from 0 to 10: *sensibility* (the reply shares, names or soothes the feeling) and *rationality* "
        "(it reasons about the situation: asks, explains, advises). Each sample is a `prompt`, the dialogue so far, "
        "and a `completion`, the reply; its scores are beside it."
    )


def _how(chosen: Selection, summary: Summary) -> str:
    settings = [(name, f"`{code(str(value))}`") for name, value in chosen.settings.items() if name != "scorer"]
    total = len(chosen.drops)
    reasons = [(f"`{name}`", f"{n:,}", f"{n / max(total, 1):.1%}") for name, n in chosen.counts().items()]
    shares = [(name, f"{q['count']:,}", f"{q['share']:.1%}") for name, q in summary.quadrants.items()]
    t_s, t_r = summary.threshold
    return "\n\n".join(
        [
            "## How it was selected",
            f"High is above, low is below T = {t_s:g} for sensibility and {t_r:g} for rationality; a score equal to T "
            "is a tie, unless `ties` says otherwise.",
            _table(("setting", "value"), settings),
            "All samples, kept or dropped for a reason:",
            _table(("", "samples", "share"), reasons),
            "All samples with scores, by quadrant (sensibility: high on it and low on rationality; rationality: the "
            "reverse; balanced: both high; low: both low):",
            _table(("quadrant", "samples", "share of the scored"), shares),
        ]
    )


def _use(file: str | None) -> str:
    where = "this folder or the name of this data set on the hub"
    return (
        "## Use\n\n"
        f"```python\nfrom datasets import load_dataset\nfrom trl import SFTTrainer\n\n"
        f'dataset = load_dataset("...", split="train")  # {where}\n'
        'SFTTrainer("Qwen/Qwen3-0.6B", train_dataset=dataset).train()\n```\n\n'
        "The scores say how a reply reads to the scorer. They are no measure of what it does for a person, and no "
        "clinical judgement."
    )


def is_own_card(path: Path) -> bool:
    """Whether a file is such a card, and not somebody's own README."""
    from huggingface_hub import DatasetCard

    try:
        return OWN_TAG in (DatasetCard.load(path).data.get("tags") or ())
    except Exception:  # no file, no head, no YAML: all the same
        return False


def _scored_by(scorers: Sequence[str], rubric: str | None, agreement: str | os.PathLike[str] | None) -> str:
    names = ", ".join(f"`{code(name)}`" for name in scorers) or "nothing"
    lines = ["## Scores", "", f"Made by {names}."]
    if list(scorers) == ["given"]:
        lines[-1] = "They came with the data; what made them is not recorded."
    lines += ["", *agreement_lines(scorers, agreement), "", *rubric_part(rubric)]
    return "\n".join(lines).rstrip()
