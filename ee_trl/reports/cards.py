"""Dataset cards, and the sections of model cards that say what a model was trained on and why."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..axes import RATIONALITY, SENSIBILITY
from ..data.columns import Coded
from ..data.samples import GIVEN, Scores, read_scores
from ..data.tables import read_metadata
from ..data.tally import Tally
from ..display import Code, Heading, Markup, Table, as_markdown, markdown_text, number, percent
from ..errors import EmpathyError, options_named
from ..files import read_json, write_text
from ..scoring.kinds import DISTILLED, kind_of_folder
from ..selection import DIFFERENCE, SUM, Selection
from .check import BASELINES, check_parts
from .licence import (
    NON_COMMERCIAL,
    UNKNOWN,
    Licence,
    Origin,
    bundled_scorer,
    find_licence,
    given_licence,
    scorer_terms,
)
from .rubric import rubric_parts, rubric_text
from .summary import Summary, quadrants_table, summarise


if TYPE_CHECKING:
    from huggingface_hub import DatasetCard

OWN_TAG = "ee-trl"
TAGS = ("empathy", "empathetic-dialogue", "data-selection", OWN_TAG, "arxiv:2407.01937")
MODEL_TAGS = (OWN_TAG, "empathetic-dialogue", "arxiv:2407.01937")
MOST_EMOTIONS = 100  # rows of the table of emotions; an emotion column may hold anything
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")


@options_named
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
    check: str | os.PathLike[str] | None = None,
) -> DatasetCard:
    """
    The card of a selected data set, ready for the hub.

    Args:
        scores ([`~ee_trl.data.samples.Scores`]): The scores of all samples, with their emotions if there are any.
        chosen ([`~ee_trl.selection.Selection`]): Which samples were kept, and why the others were not.
        summary ([`~ee_trl.reports.summary.Summary`]): The summary of all samples.
        source (`str`, *optional*): The data set that the samples were selected from.
        name (`str`, *optional*): The card's title.
        file (`str`, *optional*):
            The file beside the card that holds the samples; leave it out where `push_to_hub` adds the files.
        licence ([`~ee_trl.reports.licence.Licence`], *optional*): The licence of the source; unknown by default.
        rubric (`str`, *optional*): The rubric of the judge that made the scores.
        agreement (`str` or `os.PathLike`, *optional*):
            The `agreement.json` of `ee-trl agreement`, with this scorer as one of its two sides.
        check (`str` or `os.PathLike`, *optional*): The `check.json` of `ee-trl check`, with this scorer.

    Returns:
        `DatasetCard` of huggingface_hub: `save(path)`, `push_to_hub(repo_id)`, `str()`.

    Raises:
        [`EmpathyError`]: The agreement or the check is about other scorers than the one that made the scores.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    licence = licence or Licence()
    kept, total = len(chosen), len(chosen.drops)
    title, how = _in_words(chosen.settings)
    title = " ".join((name or "").split()) or title
    head: dict[str, Any] = {"license": UNKNOWN, **licence.carried}
    if hub_name(source):
        head["source_datasets"] = [source]
    if file:
        head["configs"] = [{"config_name": "default", "data_files": [{"split": "train", "path": file}]}]
    data = DatasetCardData(
        **head,
        pretty_name=title,
        tags=list(TAGS),
        task_categories=["text-generation"],
        size_categories=[next((size for i, size in enumerate(_SIZES) if kept < 1_000 * 10**i), "n>1T")],
    )
    audit = emotion_audit(scores.emotions, chosen.drops)
    return DatasetCard.from_template(
        data,
        template_str=files("ee_trl").joinpath("assets/templates/dataset_card.md").read_text(encoding="utf-8"),
        title=markdown_text(title),
        kept=f"{kept:,}",
        total=f"{total:,}",
        share=percent(kept, total),
        of_source=f" of {_code(hub_name(source) or Path(source).name)}" if source else "",
        chosen_how=how,
        t_sensibility=f"{summary.threshold[0]:g}",
        t_rationality=f"{summary.threshold[1]:g}",
        settings=_settings_table(chosen.settings).markdown(),
        reasons=_reasons_table(chosen.counts()).markdown(),
        quadrants=quadrants_table(summary.quadrants).markdown(),
        warnings=as_markdown(_warned(summary.warnings)),
        audit=audit_text(audit) if audit else "",
        made_by=_made_by(scores.scorers),
        agreement="\n\n".join(
            (agreement_text(scores.scorers, agreement), check_text(scores.scorers, check, agreement))
        ).strip(),
        rubric=as_markdown(rubric_parts(rubric)),
        licence="\n\n".join(filter(None, (licence.sentence(), scorer_terms(scores.scorers)))),
    )


def card_of(
    scored: Any,
    chosen: Selection,
    *,
    source: str | None = None,
    license: str | None = None,
    scorer: Any = None,
    **options: Any,
) -> DatasetCard:
    """The card of a selection; licence and rubric come from the source and the scorer."""
    scores = read_scores(scored, emotion=True)
    made_by = (read_metadata(source) or {}) if source and Path(source).is_file() else {}
    licence = given_licence(license) if license else find_licence(source, made_by.get("source"), scored)
    rubric = rubric_text(scorer) if getattr(scorer, "fingerprint", None) in scores.scorers else None
    summary = summarise(Tally([scores], chosen.settings["threshold"], chosen.settings["ties"]))
    rubric = rubric or made_by.get("rubric")
    return dataset_card(scores, chosen, summary, source=source, licence=licence, rubric=rubric, **options)


def is_own_card(path: Path) -> bool:
    """Whether a file is a card of this package, and not somebody's own README."""
    from huggingface_hub import DatasetCard

    try:
        return OWN_TAG in (DatasetCard.load(path).data.get("tags") or ())
    except Exception:  # no file, no metadata, or not YAML
        return False


def hub_name(dataset: str | None) -> str | None:
    """The name if it can be a data set's name on the hub; a card must not name anything else as its source."""
    if dataset is None or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", dataset) or Path(dataset).exists():
        return None
    return None if Path(dataset).suffix and "/" not in dataset else dataset


def _in_words(settings: Mapping[str, Any]) -> tuple[str, str]:
    """The card's title, and how the samples were chosen, after "so many of so many samples"."""
    axis = str(settings.get("axis"))
    sides = {DIFFERENCE: f"{SENSIBILITY} minus {RATIONALITY}", SUM: f"{SENSIBILITY} plus {RATIONALITY}"}
    ranked_by = sides.get(axis, axis)
    title, how = {
        "threshold": (
            f"{' and '.join(settings['keep'])} samples",
            "selected by two scores of each listener's reply",
        ),
        "top": (f"samples highest in {ranked_by}", f"those whose replies score highest in {ranked_by}"),
        "random": (
            "samples drawn at random",
            f"drawn at random (seed {settings.get('seed')}) from all that have scores, whatever these are",
        ),
        "longest": (
            "samples with the longest replies",
            "those with the longest replies of all that have scores, whatever these are",
        ),
    }[settings["rule"]]
    if settings.get("control") == "clusters":
        how += f"; chosen in {settings['clusters']} clusters of similar dialogues, of which each keeps its share"
    elif settings.get("control"):
        how += "; chosen in bins of reply length, so that the kept replies are as long as all scored replies"
    return title, how


def _made_by(scorers: Sequence[str]) -> str:
    if list(scorers) == [GIVEN]:
        return "The scores came with the data; what made them is not recorded."
    return f"The scores were made by {', '.join(map(_code, scorers)) or 'nothing'}."


def selection_section(record: Mapping[str, Any], scorer: str | None = None) -> str:
    """
    The section on an expert's data, from its `selection.json`: what was selected and what was not, and why.

    If `scorer` is the folder of a distilled scorer, its behavioural check is shown.
    """
    settings, found = record["settings"], record["counts"]
    total, audit = sum(found.values()), record.get("emotions")
    return _section(
        "selected",
        f"{found['kept']:,} of {total:,} samples ({percent(found['kept'], total)}) of {_code(record['dataset'])} were "
        f"kept. {_untrained(record)}{_made_by(settings['scorer'])}",
        settings,
        [
            _reasons_table(found),
            quadrants_table(record["summary"]["quadrants"]),
            *_warned(record["summary"].get("warnings", ())),
            *([Markup(audit_text(audit))] if audit else []),
        ],
        settings["scorer"],
        record.get("rubric"),
        scorer,
    )


def _warned(warnings: Sequence[str]) -> list[str]:
    return [f"Warning: {warning}" for warning in warnings]


def draws_section(
    record: Mapping[str, Any],
    rows: Mapping[str, Mapping[str, float]],
    scorer: str | None = None,
    warnings: Sequence[str] = (),
) -> str:
    """
    The section on the data of a model that a policy guided: how often the samples of each quadrant were drawn, and
    `warnings` about their scores.
    """
    total = sum(row["draws"] for row in rows.values())
    names = ("policy", "policy_options", "warmup", "every_n_steps", "floor", "ceiling", "threshold", "ties")
    left_out = ", ".join(f"{n:,} {reason}" for reason, n in record["left_out"].items())
    table = [
        (name, f"{row['samples']:,}", f"{row['draws']:,.0f}", percent(row["draws"], total), number(row["weight"]))
        for name, row in rows.items()
    ]
    return _section(
        "drawn",
        f"A policy drew from all {record['samples']:,} samples of {_code(record['dataset'])} while training"
        + (f"; without a dialogue to train on: {markdown_text(left_out)}. " if left_out else ". ")
        + f"{_untrained(record)}Scores by {_code(record['scores'])}.",
        {name: record[name] for name in names if record[name] not in (None, {})},
        [Table(("quadrant", "samples", "draws", "of all draws", "mean weight"), table), *_warned(warnings)],
        [record["scores"]],
        record["rubric"],
        scorer,
    )


def _untrained(record: Mapping[str, Any]) -> str:
    """How many samples were not trained on, as a sentence; nothing if all were."""
    if not record.get("not_trained_on"):
        return ""
    return (
        f"{record['not_trained_on']:,} of them were not trained on: `max_length` left nothing of their replies. A "
        "greater `max_length`, or `truncation_mode: keep_end`, keeps them. "
    )


def _section(
    done: str,
    what: str,
    settings: Mapping[str, Any],
    tables: Sequence[str | Table],
    scorers: Sequence[str],
    rubric: str | None,
    scorer: str | None,
) -> str:
    report = Path(scorer) / "report.json" if scorer and kind_of_folder(scorer) in DISTILLED else None
    known = read_json(report) if report and report.is_file() else bundled_scorer(scorers)
    check = known.get("check")
    parts = [
        Heading(f"Training data: what was {done}, and why"),
        Markup(what),
        _settings_table(settings),
        *tables,
        agreement_text(scorers),
        *(check_parts(check) if check else []),
        *rubric_parts(rubric),
        f"{done.capitalize()} with ee-trl, after Efficient-Empathy (arXiv:2407.01937).",
    ]
    return f"\n\n{as_markdown(parts)}\n"


def with_section(
    write: Callable[..., Any], card: Path, section: Callable[[], str], origin: Origin | None = None
) -> Callable[..., None]:
    """A trainer's `create_model_card` that adds a section each time the card is written; a push writes it anew."""

    def create_model_card(*args: Any, **kwargs: Any) -> None:
        write(*args, **kwargs)
        if card.exists():  # the main process writes
            finish_model_card(card, section(), origin)

    return create_model_card


def finish_model_card(path: Path, section: str, origin: Origin | None = None) -> None:
    """Adds a section, the origin, its licences and this package's tags to a card; TRL's placeholders go."""
    from huggingface_hub import ModelCard

    card = ModelCard.load(path, ignore_metadata_errors=True)
    if card.data.get("licence") == "license":
        card.data.pop("licence")
    card.data.tags = [*dict.fromkeys([*(card.data.tags or []), *MODEL_TAGS])]
    if origin is not None:
        card.data.license = NON_COMMERCIAL if bundled_scorer(origin.scorers) else UNKNOWN
        if name := hub_name(origin.base) or hub_name(origin.named_base):
            card.data.base_model = name
        base = f"is a fine-tuned version of {_code(origin.name)}" if origin.base else "began with random weights"
        card.text = card.text.replace("is a fine-tuned version of [None](https://huggingface.co/None)", base)
        card.text = card.text.replace('model="None"', f'model="{path.parent.name}"')  # without a name on the hub
        section += f"\n{as_markdown([Heading('Licences'), *origin.terms()])}\n"
    write_text(path, f"{str(card).rstrip()}\n{section}")


def _code(text: str) -> str:
    return markdown_text(Code(text))


def _settings_table(settings: Mapping[str, Any]) -> Table:
    rows = [(name, Code(value)) for name, value in settings.items() if name != "scorer"]
    return Table(("setting", "value"), rows, texts=2)


def _reasons_table(found: Mapping[str, int]) -> Table:
    total = sum(found.values())
    rows = [(Code(name), f"{n:,}", percent(n, total)) for name, n in found.items()]
    return Table(("", "samples", "share"), rows)


def emotion_audit(emotions: Coded | None, drops: Coded) -> dict[str, dict[str, int]]:
    """Emotion -> how many of its samples were kept, or dropped for each reason; the most frequent emotion first."""
    if emotions is None:
        return {}
    found = {
        emotion or "(none)": {reason or "kept": n for reason, n in row.items()}
        for emotion, row in emotions.counts_with(drops).items()
    }
    return dict(sorted(found.items(), key=lambda item: (-sum(item[1].values()), item[0])))


def audit_text(audit: Mapping[str, Mapping[str, int]]) -> str:
    """The audit as Markdown: a table, and before it the emotions that stand out."""
    total = {emotion: sum(row.values()) for emotion, row in audit.items()}
    share = {emotion: row["kept"] / total[emotion] for emotion, row in audit.items()}
    least, most = min(share, key=lambda emotion: share[emotion]), max(share, key=lambda emotion: share[emotion])
    all_kept = percent(sum(row["kept"] for row in audit.values()), sum(total.values()))
    reasons = [name for name in dict.fromkeys(name for row in audit.values() for name in row) if name != "kept"]
    reasons = [name for name in reasons if any(row.get(name) for row in audit.values())]
    rows = [
        (
            emotion,
            f"{total[emotion]:,}",
            f"{row['kept']:,}",
            percent(share[emotion]),
            *(f"{row.get(name, 0):,}" for name in reasons),
        )
        for emotion, row in list(audit.items())[:MOST_EMOTIONS]
    ]
    parts: list[str | Table] = [
        f"Of all samples {all_kept} are kept; by emotion from {percent(share[least])} ({least}) to "
        f"{percent(share[most])} ({most}). If the share of an emotion differs from the others, a model learns this "
        "imbalance. Columns after the share kept count the samples dropped, by reason.",
        Table(("emotion", "samples", "kept", "share kept", *map(Code, reasons)), rows),
    ]
    if len(audit) > len(rows):
        parts.append(f"{len(audit) - len(rows):,} more, rarer ones are left out of the table.")
    return as_markdown(parts)


def agreement_text(scorers: Sequence[str], report: str | os.PathLike[str] | None = None) -> Markup:
    """How far the scorer is known to agree with another, as a paragraph of Markdown."""
    if report is not None:
        return _measured(scorers, Path(report))
    bundled = bundled_scorer(scorers)
    alone = any(name.startswith(bundled.get("fingerprint", "?")) for name in scorers)
    if not alone or "by_threshold_pooled" not in bundled:
        return Markup("How far these scores agree with those of a judge or a person is not known here.")
    rho, kappa = bundled["spearman_mean_over_folds"], bundled["by_threshold_pooled"]["5"]["kappa"]
    return Markup(
        "The scorer imitates an LLM judge on EmpatheticDialogues, moderately well: cross-validated Spearman "
        f"{rho['sensibility']:.2f} for sensibility and {rho['rationality']:.2f} for rationality, Cohen's kappa "
        f"{kappa:.2f} on the three-way selection at T = 5. Its weights are learnt from CC BY-NC 4.0 data."
    )


def check_text(scorers: Sequence[str], *reports: str | os.PathLike[str] | None) -> Markup:
    """
    The scorer's behavioural check as Markdown, from the first report of `check` or `agreement` that has it.

    A bundled scorer's is known. The text is empty where none is found; raises [`EmpathyError`] if the first report is
    given and is about other scorers.
    """
    for path in (path for path in reports if path is not None):
        try:
            report = read_json(path)
            for part in (report, report.get("a", {}), report.get("b", {})):
                check = part.get("scorers") or part.get("check") or {}
                mine = {name: one for name, one in check.items() if one["fingerprint"] in scorers}
                if mine:
                    return Markup(as_markdown(check_parts({**mine, **{name: check[name] for name in BASELINES}})))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise EmpathyError(f"{os.fspath(path)!r} is not a report of this package: {error}") from error
    if reports and reports[0] is not None:
        raise EmpathyError(f"{os.fspath(reports[0])!r} has no behavioural check of {', '.join(scorers)}")
    known = bundled_scorer(scorers).get("check")
    return Markup(as_markdown(check_parts(known)) if known else "")


def _measured(scorers: Sequence[str], path: Path) -> Markup:
    try:
        report = read_json(path)
        a, b, found = report["a"], report["b"], report["agreement"]
        sides, rho, three = {a["fingerprint"]: b, b["fingerprint"]: a}, found["axes"], found["three_way"]
        other = next((sides[name] for name in scorers if name in sides), None)
        if other is not None:
            return Markup(
                f"Compared with {_code(other['fingerprint'])} ({markdown_text(other['name'])}) on "
                f"{found['compared']:,} samples of {markdown_text(report['dataset'])}: Spearman "
                f"{number(rho['sensibility']['spearman'])} for sensibility and "
                f"{number(rho['rationality']['spearman'])} for rationality, Cohen's kappa {number(three['kappa'])} on "
                "the three-way selection."
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EmpathyError(
            f"{str(path)!r} is not the agreement.json that `ee-trl agreement -o` writes: {error}"
        ) from error
    made = " with ".join(map(str, sides))
    raise EmpathyError(f"{str(path)!r} compares {made}, neither of which made these scores ({', '.join(scorers)})")
