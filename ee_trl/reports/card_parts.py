"""What dataset cards and model cards have in common: the audit by emotion, the scorer's agreement, inert text."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.columns import Coded, counts
from ..errors import EmpathyError
from .markdown import _cell as _flat
from .markdown import _table


MOST_EMOTIONS = 100
"""Lines of the audit in a card; an emotion column may hold anything."""


# ---- emotions ------------------------------------------------------------------------------------------------------


def emotion_audit(emotions: Coded | None, drops: Coded) -> dict[str, dict[str, int]]:
    """
    What became of the samples of each emotion.

    Returns:
        `dict`: emotion -> `{"kept": n, "<reason>": n}`, the most frequent emotion first; empty without emotions.
    """
    if emotions is None:
        return {}
    width = len(drops.names)
    pairs = counts(emotions.codes, len(emotions.names), drops.codes, width)
    found = {}
    for i, emotion in enumerate(emotions.names):
        row = {name or "kept": n for name, n in zip(drops.names, pairs[i * width : (i + 1) * width], strict=True)}
        if sum(row.values()):
            found[emotion or "(none)"] = row
    return dict(sorted(found.items(), key=lambda item: (-sum(item[1].values()), item[0])))


def audit_text(audit: Mapping[str, Mapping[str, int]]) -> str:
    """The audit as a Markdown table, with what stands out before it."""
    total = {emotion: sum(row.values()) for emotion, row in audit.items()}
    kept = {emotion: row["kept"] / total[emotion] for emotion, row in audit.items()}
    all_kept = sum(row["kept"] for row in audit.values()) / sum(total.values())
    least, most = min(kept, key=lambda emotion: kept[emotion]), max(kept, key=lambda emotion: kept[emotion])
    reasons = [name for name in dict.fromkeys(name for row in audit.values() for name in row) if name != "kept"]
    reasons = [name for name in reasons if any(row.get(name) for row in audit.values())]
    rows = [
        (
            cell(emotion),
            f"{total[emotion]:,}",
            f"{row['kept']:,}",
            f"{kept[emotion]:.1%}",
            *(f"{row.get(name, 0):,}" for name in reasons),
        )
        for emotion, row in list(audit.items())[:MOST_EMOTIONS]
    ]
    left_out = len(audit) - len(rows)
    more = f"\n\n{left_out:,} more, rarer ones are left out of the table." if left_out else ""
    return (
        f"Of all samples {all_kept:.1%} are kept; by emotion from {kept[least]:.1%} ({cell(least)}) to "
        f"{kept[most]:.1%} ({cell(most)}). A share unlike the others is a skew that a model will "
        "learn. Columns after the share kept count the samples dropped, by reason.\n\n"
        + _table(("emotion", "samples", "kept", "share kept", *(f"`{name}`" for name in reasons)), rows)
        + more
    )


# ---- scorer --------------------------------------------------------------------------------------------------------


def agreement_lines(scorers: Sequence[str], report: str | os.PathLike[str] | None = None) -> list[str]:
    """
    How far the scorer is known to agree with another, as lines of Markdown.

    Args:
        scorers (`Sequence[str]`): Fingerprints of what made the scores.
        report (`str` or `os.PathLike`, *optional*): The `agreement.json` of `ee-trl agreement`.

    Raises:
        [`EmpathyError`]: There is no such report, or it is about other scorers.
    """
    if report is not None:
        return _measured(scorers, Path(report))
    bundled = _bundled_metrics()
    if bundled["fingerprint"] not in scorers:
        return ["How far these scores agree with a judge's, or a person's, is not known here."]
    rho, kappa = bundled["spearman_mean_over_folds"], bundled["by_threshold_pooled"]["5"]["kappa"]
    return [
        f"The scorer imitates an LLM judge on EmpatheticDialogues, moderately well: cross-validated Spearman "
        f"{rho['sensibility']:.2f} for sensibility and {rho['rationality']:.2f} for rationality, Cohen's kappa "
        f"{kappa:.2f} on the three-way selection at T = 5. Its weights are learnt from CC BY-NC 4.0 data."
    ]


def _measured(scorers: Sequence[str], path: Path) -> list[str]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        a, b, found = report["a"], report["b"], report["agreement"]
        sides, rho, three = {a["fingerprint"]: b, b["fingerprint"]: a}, found["axes"], found["three_way"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EmpathyError(
            f"{str(path)!r} is not the agreement.json that `ee-trl agreement -o` writes: {error}"
        ) from error
    other = next((sides[name] for name in scorers if name in sides), None)
    if other is None:
        raise EmpathyError(
            f"{str(path)!r} compares {' with '.join(sides)}, neither of which made these scores ({', '.join(scorers)})"
        )
    from .agreement import number

    return [
        f"Compared with `{code(other['fingerprint'])}` ({cell(other['name'])}) on {found['compared']:,} samples of "
        f"{cell(report['dataset'])}: Spearman {number(rho['sensibility']['spearman'])} for sensibility and "
        f"{number(rho['rationality']['spearman'])} for rationality, Cohen's kappa {number(three['kappa'])} on the "
        "three-way selection."
    ]


def _bundled_metrics() -> dict[str, Any]:
    from importlib.resources import files

    return json.loads(files("ee_trl").joinpath("assets/linear/metrics.json").read_text(encoding="utf-8"))


# ---- text of others ------------------------------------------------------------------------------------------------


def cell(text: str) -> str:
    """Text of the data for Markdown: one line, without markup, links or pictures."""
    return _flat(text).replace("[", "\\[").replace("_", "\\_").replace("#", "\\#")


def code(text: str) -> str:
    """Text of the data between backticks."""
    return " ".join(text.split()).replace("`", "'").replace("|", "/").replace("<", "&lt;")
