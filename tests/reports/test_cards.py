"""Dataset and model cards: their head as the hub reads it, their numbers by hand, nothing of the data as markup."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from datasets import Dataset, DatasetInfo
from hostile import check_markdown
from huggingface_hub import DatasetCard, DatasetCardData, ModelCard
from trl.trainer.utils import generate_model_card

from ee_trl import EmpathyDataSelector, behaviour_check, load_sample
from ee_trl.cli.main import main
from ee_trl.data.reading import open_dataset
from ee_trl.data.samples import read_scores
from ee_trl.display import as_markdown
from ee_trl.errors import EmpathyError
from ee_trl.files import write_json
from ee_trl.reports.agreement import agree
from ee_trl.reports.agreement_page import Side, report_dict
from ee_trl.reports.cards import (
    audit_text,
    dataset_card,
    draws_section,
    emotion_audit,
    hub_name,
    selection_section,
    with_section,
)
from ee_trl.reports.licence import (
    UNKNOWN,
    Origin,
    bundled_scorer,
    find_licence,
    given_licence,
    scorer_terms,
    shared_licence,
)
from ee_trl.reports.rubric import rubric_parts


# sensibility, rationality, emotion: sad keeps 2 of 4, joy 0 of 2
SCORES = [(8, 2, "sad"), (8, 2, "sad"), (2, 8, "sad"), (5, 2, "sad"), (2, 2, "joy"), (None, None, "joy")]


def rows(scores: Any = SCORES) -> Dataset:
    return Dataset.from_list(
        [
            {"context": ["Hello."], "response": f"Hi {i}.", "sensibility": s, "rationality": r, "emotion": emotion}
            for i, (s, r, emotion) in enumerate(scores)
        ]
    )


def head(card: Any) -> dict[str, Any]:
    """The YAML of a card, which must come through the hub's own class unchanged."""
    text = str(card)
    found = yaml.safe_load(text.split("\n---\n")[0].removeprefix("---"))
    assert DatasetCardData(**found).to_dict() == found
    assert DatasetCard(text).data.to_dict() == found
    return found


@pytest.fixture
def selector() -> EmpathyDataSelector:
    return EmpathyDataSelector("linear", show_progress=False)


# ---- what it says --------------------------------------------------------------------------------------------------


def test_head_is_what_the_hub_reads(selector: EmpathyDataSelector) -> None:
    found = head(selector.card(rows(), name="My set", license="cc-by-nc-4.0"))
    assert found["license"] == "cc-by-nc-4.0"
    assert found["pretty_name"] == "My set"
    assert found["size_categories"] == ["n<1K"]
    assert found["task_categories"] == ["text-generation"]
    assert "arxiv:2407.01937" in found["tags"]
    assert "configs" not in found  # which push_to_hub fills in


@pytest.mark.parametrize(("kept", "size"), [(999, "n<1K"), (1_000, "1K<n<10K"), (10_000, "10K<n<100K")])
def test_size_category(kept: int, size: str, selector: EmpathyDataSelector) -> None:
    data = rows([(8, 2, "sad")] * kept)
    assert head(selector.card(data))["size_categories"] == [size]


def test_a_source_on_the_hub_is_named_in_full_and_a_file_by_its_name_alone(tmp_path: Path) -> None:
    scores, summary = read_scores(rows()), EmpathyDataSelector("linear").summary(rows())
    chosen = EmpathyDataSelector("linear").choose(rows())
    card = dataset_card(scores, chosen, summary, source="org/dialogues")
    assert head(card)["source_datasets"] == ["org/dialogues"]
    assert "samples of `org/dialogues`" in str(card)
    card = dataset_card(scores, chosen, summary, source=str(tmp_path / "mine.parquet"))
    assert "source_datasets" not in head(card)
    assert "samples of `mine.parquet`" in str(card)
    assert str(tmp_path) not in str(card)


def test_numbers_by_hand(selector: EmpathyDataSelector) -> None:
    text = str(selector.card(rows(), name="x"))
    assert "**2 of 6 samples (33.3%)**" in text
    for line in (
        "| threshold | `[5.0, 5.0]` |",
        "| `kept` | 2 | 33.3% |",
        "| `unscored` | 1 | 16.7% |",
        "| rationality | 1 | 20.0% |",  # of the five that are scored
        "| sad | 4 | 2 | 50.0% | 0 | 1 | 0 | 1 |",
        "| joy | 2 | 0 | 0.0% | 1 | 0 | 1 | 0 |",
    ):
        assert line in text, line
    assert "| share kept | `unscored` | `quadrant_rationality` | `quadrant_low` | `tie` |" in text
    assert "33.3% are kept; by emotion from 0.0% (joy) to 50.0% (sad)" in text
    assert "@article{sun2024efficientempathy," in text


@pytest.mark.parametrize(
    ("options", "title", "said"),
    [
        (
            {"keep": "sensibility,tie"},
            "sensibility and tie samples",
            "selected by two scores of each listener's reply.",
        ),
        (
            {"rule": "random", "seed": 4},
            "samples drawn at random",
            "drawn at random (seed 4) from all that have scores",
        ),
        ({"rule": "longest"}, "samples with the longest replies", "those with the longest replies of all that have"),
        ({"rule": "top"}, "samples highest in sensibility", "those whose replies score highest in sensibility."),
        (
            {"rule": "top", "axis": "difference"},
            "samples highest in sensibility minus rationality",
            "those whose replies score highest in sensibility minus rationality.",
        ),
        (
            {"rule": "top", "axis": "sum", "n": 2, "control": "clusters"},
            "samples highest in sensibility plus rationality",
            "those whose replies score highest in sensibility plus rationality; chosen in 1 clusters of similar",
        ),
    ],
)
def test_title_and_first_sentence_are_of_the_rule(
    options: dict[str, Any], title: str, said: str, selector: EmpathyDataSelector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ee_trl.scoring.biencoder.dialogue_vectors", lambda dialogues: np.ones((len(dialogues), 2)))
    card = selector.card(rows(), **options)
    assert head(card)["pretty_name"] == title
    text = str(card)
    assert f"\n# {title}\n" in text
    assert f"%)**, {said}" in text
    assert ("selected by two scores" in text) is ("rule" not in options)


def test_audit_counts_every_sample_of_every_emotion_once(selector: EmpathyDataSelector) -> None:
    data = selector.score(load_sample())
    for options in ({"keep": "rationality"}, {"rule": "random", "n": 100}):
        chosen = selector.choose(data, **options)
        audit = emotion_audit(read_scores(data, emotion=True).emotions, chosen.drops)
        kept = selector.select(data, **options)["emotion"][:]
        assert {name: row["kept"] for name, row in audit.items()} == {name: kept.count(name) for name in audit}
        assert sum(sum(row.values()) for row in audit.values()) == len(data)


def test_of_very_many_emotions_the_most_frequent_are_listed() -> None:
    audit = {f"e{i}": {"kept": 1, "tie": 200 - i} for i in range(130)}
    text = audit_text(audit)
    assert sum(line.startswith("| e") and "| emotion" not in line for line in text.splitlines()) == 100
    assert text.endswith("30 more, rarer ones are left out of the table.")
    assert "(e0) to" in text  # the extremes are of all of them
    assert "(e129)" in text


def test_without_emotions_there_is_no_audit(selector: EmpathyDataSelector) -> None:
    text = str(selector.card(rows().remove_columns("emotion")))
    assert "by emotion" not in text
    assert "## How it was selected" in text


def test_scores_that_came_with_the_data_are_said_to_be_of_unknown_origin(selector: EmpathyDataSelector) -> None:
    text = str(selector.card(rows()))
    assert "what made them is not recorded" in text
    assert "is not known here" in text


def test_the_bundled_scorer_has_its_measured_agreement(selector: EmpathyDataSelector) -> None:
    text = str(selector.card(selector.score(load_sample("test"))))
    assert "Spearman 0.51 for sensibility and 0.58 for rationality, Cohen's kappa 0.38" in text
    assert selector.scorer.fingerprint in text


def test_the_rubric_of_a_judge_is_printed_in_full(selector: EmpathyDataSelector) -> None:
    from ee_trl import load_rubric

    class Judge:
        fingerprint = "judge-1"
        rubric = load_rubric()

        def score(self, dialogues: Any) -> Any:
            return [[8.0, 2.0]] * len(dialogues)

    judged = EmpathyDataSelector(Judge(), store=False, show_progress=False)
    text = str(judged.card(judged.score(load_sample("test"))))
    assert all(line in text for line in load_rubric().text.splitlines())
    assert "given this rubric" not in str(selector.card(rows()))


def test_an_agreement_report_is_quoted_if_it_is_about_the_scorer(
    selector: EmpathyDataSelector, tmp_path: Path
) -> None:
    scored = selector.score(load_sample("test"))
    values = np.array([scored["sensibility"], scored["rationality"]]).T
    sides = [Side("a person", "person-1", values, ()), Side("linear", selector.scorer.fingerprint, values, ())]
    report = tmp_path / "agreement.json"
    write_json(report, report_dict("the test split", *sides, agree(values, values, resamples=20)))
    text = str(selector.card(scored, agreement=report))
    assert f"with `person-1` (a person) on {len(scored)} samples of the test split: Spearman 1.00 for" in text
    assert "Cohen's kappa 1.00" in text
    with pytest.raises(EmpathyError, match="neither of which made these scores"):
        selector.card(rows(), agreement=report)
    (tmp_path / "no.json").write_text("{}")
    with pytest.raises(EmpathyError, match="ee-trl agreement -o"):
        selector.card(scored, agreement=tmp_path / "no.json")


def test_a_behavioural_check_is_shown_if_it_is_about_the_scorer(
    selector: EmpathyDataSelector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored, path = selector.score(load_sample("test")), tmp_path / "check.json"
    found = behaviour_check({"mine": selector.scorer}, show_progress=False)
    write_json(path, found.to_dict())
    text = str(selector.card(scored, check=path))
    assert "## Behavioural check" in text
    assert "| kind of reply | bar | mine | length | random |" in text
    with pytest.raises(EmpathyError, match="has no behavioural check of given"):
        selector.card(rows(), check=path)
    path.write_text("[1]")
    with pytest.raises(EmpathyError, match="not a report of this package"):
        selector.card(scored, check=path)
    known = {"fingerprint": selector.scorer.fingerprint, "check": found.scorers}
    monkeypatch.setattr("ee_trl.reports.cards.bundled_scorer", lambda scorers: bundled_scorer(scorers) | known)
    assert "| kind of reply | bar | mine | length | random |" in str(selector.card(scored))


HOSTILE = (
    "a | b\n\n# c",
    "<img src=x onerror=1>",
    "![x](javascript:1)",
    "[y](http://z)",
    "---\nlicense: mit\n---",
    "`",
)


def test_nothing_of_the_data_is_markup(selector: EmpathyDataSelector, tmp_path: Path) -> None:
    data = rows([(8, 2, text) for text in HOSTILE])
    card = selector.card(data, name="<b>[n](x)</b>\n---\n", license="mit")
    assert head(card)["license"] == "mit"
    body = DatasetCard(str(card)).text
    for markup in ("<img", "<b>", "![x](", "[y](", "\n# c", "\nlicense"):
        assert markup not in body.replace("\\[", "\\"), markup
    [table] = [part for part in body.split("\n\n") if part.startswith("| emotion")]
    assert len(table.splitlines()) == 2 + len(HOSTILE)
    assert {line.replace("\\|", "").count("|") for line in table.splitlines()[2:]} == {5}


# ---- licence -------------------------------------------------------------------------------------------------------


def test_an_unknown_licence_is_said_to_be_unknown(selector: EmpathyDataSelector) -> None:
    card = selector.card(rows())
    assert head(card)["license"] == UNKNOWN
    assert "The licence of the source is unknown" in str(card)


def test_the_licence_is_carried_over_from_the_card_beside_the_source(
    selector: EmpathyDataSelector, tmp_path: Path
) -> None:
    rows().to_parquet(tmp_path / "scored.parquet")
    (tmp_path / "README.md").write_text(
        "---\nlicense: other\nlicense_name: mine\nlanguage:\n- en\ntags:\n- x\n---\n# It"
    )
    found = head(selector.card(tmp_path / "scored.parquet"))
    assert (found["license"], found["license_name"], found["language"]) == ("other", "mine", ["en"])
    assert "x" not in found["tags"]
    assert head(selector.card(tmp_path / "scored.parquet", license="apache-2.0"))["license"] == "apache-2.0"


def test_the_licence_of_dialogues_reaches_the_card_through_their_scores(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    load_sample("test").to_parquet(source / "dialogues.parquet")
    (source / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    scored = tmp_path / "scores" / "scored.parquet"
    assert main(["score", str(source / "dialogues.parquet"), "-o", str(scored), "--scorer", "linear", "-q"]) == 0
    assert main(["select", str(scored), "-o", str(tmp_path / "out" / "s.parquet"), "--card", "-q"]) == 0
    assert head((tmp_path / "out" / "README.md").read_text())["license"] == "cc-by-4.0"


def test_the_licence_of_a_data_sets_own_information(selector: EmpathyDataSelector) -> None:
    data = Dataset(rows().data, info=DatasetInfo(license="cc-by-sa-4.0"))
    assert head(selector.card(data))["license"] == "cc-by-sa-4.0"


def test_licences_that_the_hub_would_refuse_are_refused(selector: EmpathyDataSelector, tmp_path: Path) -> None:
    with pytest.raises(EmpathyError, match=r"'CC BY 4.0' is not a licence name.*cc-by-nc-4.0"):
        selector.card(rows(), license="CC BY 4.0")
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n")
    with pytest.raises(EmpathyError, match="cannot be read"):
        find_licence(tmp_path)
    (tmp_path / "README.md").write_text("# No head\n\n---\n")
    assert find_licence(tmp_path, None, "nobody/knows") == find_licence()


# ---- written by the command line -----------------------------------------------------------------------------------


def test_select_writes_a_folder_that_can_be_uploaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows().to_parquet(tmp_path / "scored.parquet")
    out = tmp_path / "up"
    args = ["select", str(tmp_path / "scored.parquet"), "-o", str(out / "kept.parquet"), "--card", "--license", "mit"]
    assert main([*args, "--dropped", str(out / "dropped.parquet"), "-t", "4"]) == 0
    assert {path.name for path in out.iterdir()} == {"kept.parquet", "dropped.parquet", "README.md"}
    text = (out / "README.md").read_text()
    assert head(text)["license"] == "mit"
    assert "T = 4 for sensibility" in text
    assert "of `scored.parquet`" in text
    loaded: Any = open_dataset(out)  # by the card: what was dropped is no part of it
    assert set(loaded) == {"train"}
    assert loaded["train"]["completion"][0][0]["content"] == "Hi 0."
    assert len(loaded["train"]) == 3
    assert main([*args, "--overwrite", "--json"]) == 0
    (out / "kept.parquet").unlink()
    assert main(args) == 3
    assert "README.md' is there already" in capsys.readouterr().err
    assert not (out / "kept.parquet").exists()
    (out / "README.md").write_text("# My project\n")
    assert main([*args, "--overwrite"]) == 3  # which was said of the data, not of another's README
    assert (out / "README.md").read_text() == "# My project\n"


def test_options_of_the_card_go_with_the_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows().to_parquet(tmp_path / "scored.parquet")
    assert (
        main(["select", str(tmp_path / "scored.parquet"), "-o", str(tmp_path / "s.parquet"), "--license", "mit"]) == 3
    )
    assert "--license goes with --card" in capsys.readouterr().err


# ---- model cards ---------------------------------------------------------------------------------------------------


TRL_CARD = "---\nlicence: license\nlibrary_name: transformers\ntags:\n- sft\n---\n\n# Model Card for x\n"


def test_the_section_is_there_however_often_the_card_is_written(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    create = with_section(lambda **_: card.write_text(TRL_CARD), card, lambda: "\n## Training data\n")
    for _ in range(2):  # as a push to the hub does it
        create(model_name="x")
        found = ModelCard.load(card)
        assert card.read_text().count("## Training data") == 1
        assert found.data.tags[0] == "sft"
        assert "ee-trl" in found.data.tags
        assert "licence" not in found.data.to_dict()
        assert found.data.library_name == "transformers"


@pytest.mark.parametrize("base", [None, "Qwen/Qwen3-0.6B", "here"])
def test_the_card_of_a_model_names_its_base_and_its_licences(
    base: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "README.md").write_text("---\nlicense: mit\nbase_model: org/origin\n---\n")
    card = tmp_path / "expert" / "README.md"
    card.parent.mkdir()
    named = base if base and "/" in base else None
    create = with_section(
        lambda **_: generate_model_card(named, "x", None, None, ["sft"], None, None, "SFT").save(card),
        card,
        lambda: "\n## Training data\n",
        Origin(base, given_licence("apache-2.0"), [EmpathyDataSelector("linear").scorer.fingerprint]),
    )
    create(model_name="x")
    text, found = card.read_text(), ModelCard.load(card).data
    assert "None" not in text
    assert found.base_model == ("org/origin" if base == "here" else named)
    assert found.license == "cc-by-nc-4.0"
    assert "**Non-commercial: the scorer's weights**" in text
    assert "keep its licence: `apache-2.0`" in text
    assert 'model="expert"' in text
    said = {
        None: "began with random weights",
        "here": "`here` is `mit` (as its card says)",
        "Qwen/Qwen3-0.6B": "is not known here: find it out",
    }
    assert said[base] in text
    assert base is None or base in text.split("## Quick start")[0]


def test_the_scorer_s_terms_and_those_of_experts(tmp_path: Path) -> None:
    assert scorer_terms(["mine-1"]) == ""
    linear = EmpathyDataSelector("linear")
    assert "Non-commercial" in str(linear.card(linear.score(load_sample("test"))))
    for name, licence in (("a", "mit"), ("b", "mit"), ("c", "cc-by-nc-4.0"), ("d", "[")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    folders = {name: tmp_path / name for name in "abcd"}
    assert shared_licence([folders["a"], folders["b"]]) == "mit"
    assert shared_licence([folders["a"], folders["c"]]) == "cc-by-nc-4.0"
    assert shared_licence([folders["a"], folders["d"], "owner/expert"]) == "unknown"


def test_the_section_of_an_expert_says_what_was_selected_and_why(selector: EmpathyDataSelector) -> None:
    chosen, summary = selector.choose(rows()), selector.summary(rows())
    record = {
        "dataset": "my|data",
        "settings": chosen.settings,
        "counts": chosen.counts(),
        "summary": summary.to_dict(),
        "emotions": emotion_audit(read_scores(rows(), emotion=True).emotions, chosen.drops),
        "rubric": "Rate it.\n````\n# no heading",
    }
    text = selection_section(record)
    assert text.startswith("\n\n## Training data: what was selected, and why\n\n2 of 6 samples (33.3%) of `my/data`")
    for said in (
        "| ties | `drop` |",
        "| `unscored` | 1 | 16.7% |",
        "| rationality | 1 | 20.0% |",
        "| sad | 4 | 2 | 50.0%",
        "is not known here.",
        "`````text\nRate it.\n````\n# no heading\n`````",
        "Selected with ee-trl",
    ):
        assert said in text, said
    assert "By emotion" not in selection_section({**record, "emotions": {}, "rubric": None})


def test_the_section_of_a_guided_model_says_what_was_drawn_and_why() -> None:
    record = {
        **dict.fromkeys(("policy_options", "warmup", "every_n_steps", "floor", "ceiling", "rubric")),
        **{
            "dataset": "data",
            "samples": 10,
            "left_out": {"no_reply": 2},
            "scores": "linear-1",
            "policy": "sensibility",
        },
        **{"threshold": [5.0, 5.0], "ties": "drop"},
    }
    by_quadrant = {
        "sensibility": {"samples": 4, "draws": 6.0, "weight": 1.25},
        "low": {"samples": 6, "draws": 2.0, "weight": float("nan")},
    }
    text = draws_section(record, by_quadrant, warnings=["2 samples have a flag."])
    for said in (
        "\nWarning: 2 samples have a flag.\n",
        "all 10 samples of `data` while training; without a dialogue to train on: 2 no_reply.",
        "Scores by `linear-1`.",
        "| policy | `sensibility` |",
        "| sensibility | 4 | 6 | 75.0% | 1.25 |",
        "| low | 6 | 2 | 25.0% | n/a |",
        "Drawn with ee-trl",
    ):
        assert said in text, said
    assert "warmup" not in text


def test_only_names_of_the_hub_are_named_as_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    for local in (None, "/data/dialogues.parquet", "dialogues.parquet", "./x", "a/b/c", "here", "~/x"):
        assert hub_name(local) is None
    assert hub_name("facebook/empathetic_dialogues") == "facebook/empathetic_dialogues"


@pytest.mark.parametrize(
    "licence",
    [
        '"` ![x](https://evil.example/p.png) <script>alert(1)</script> `"',
        "{a: b}",
        "[5]",
        "5",
        '"```\\n# x"',
    ],
)
def test_a_licence_of_the_source_is_no_markup(licence: str, selector: EmpathyDataSelector, tmp_path: Path) -> None:
    rows().to_parquet(tmp_path / "scored.parquet")
    (tmp_path / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    check_markdown(str(selector.card(tmp_path / "scored.parquet")))


def test_a_rubric_cannot_end_its_block() -> None:
    text = "```\n<script>alert(1)</script>\n`````\n~~~\n![x](https://evil.example/p.png)"
    check_markdown(as_markdown(rubric_parts(text)))
