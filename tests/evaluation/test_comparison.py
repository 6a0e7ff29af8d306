"""`ee-trl evaluate`: all metrics, paired differences, the three reports, and what is refused."""

from __future__ import annotations

import html
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import WordScorer
from datasets import Dataset
from tiny_candidates import base_and_adapter
from tiny_encoder import tiny_encoder

from ee_trl import load_metric, load_sample
from ee_trl.cli.main import main
from ee_trl.errors import EmpathyError, FormatError
from ee_trl.evaluation import evaluate_models, plots, read_eval_set
from ee_trl.evaluation.bootstrap import Bootstrap, holm, intervals, means
from ee_trl.evaluation.candidates import load_candidate, read_replies
from ee_trl.evaluation.comparison import pairs_of
from ee_trl.evaluation.generation import Decoding, prompt_keys


HOSTILE = [
    "<script>alert(1)</script>",
    "</p><img src=x onerror=alert(2)>",
    "`code` | table | **bold** ![x](javascript:alert(3))",
    "{{ 7 * 7 }} {% raw %}",
    "\u202eright to left\u202c & &amp; \"quotes\" 'single'",
    "$x^2$ \\end{math}",
]
SHORT = Decoding(max_new_tokens=8)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return base_and_adapter(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def compared(models, tmp_path_factory):
    """Both models, and a file of the references with hostile text, on twelve dialogues."""
    folder = tmp_path_factory.mktemp("compared")
    eval_set = read_eval_set(limit=12)
    texts = [*HOSTILE, *eval_set.references[len(HOSTILE) :]]
    Dataset.from_dict({"prediction": texts, "reference": eval_set.references}).to_parquet(folder / "people.parquet")
    found = evaluate_models(
        {name: str(path) for name, path in models.items()},
        eval_set,
        predictions={"<b>people</b>": folder / "people.parquet"},
        output=folder / "out",
        decoding=SHORT,
        batch_size=5,
        resamples=100,
        scorer="linear",
        store=False,
        show=False,
    )
    return found, folder / "out", eval_set


# ---------------------------------------------------------------------------------------------- what it measures


def test_numbers_are_those_of_the_metrics(compared, models) -> None:
    found, _, eval_set = compared
    for name in found.models:
        replies, numbers = found.replies[name], found.numbers(name)
        pairs = {"predictions": replies, "references": eval_set.references}
        for metric, options in (
            ("dialogue_bleu", {**pairs, "tokenizer": "nltk"}),
            ("dialogue_rouge", pairs),
            ("word_f1", {**pairs, "tokenizer": "nltk"}),
            ("distinct", {"predictions": replies}),
            ("empathy_axes", {**pairs, "contexts": eval_set.prompts, "scorer": "linear"}),
        ):
            whole = load_metric(metric).compute(**options, resamples=100)
            for key, value in whole.items():
                if key in numbers and isinstance(value, float):
                    assert numbers[key] == pytest.approx(value, nan_ok=True), (name, key)
                if key.removesuffix("_interval") in found.models[name]["intervals"] and isinstance(value, list):
                    widths = np.ptp(value), np.ptp(found.models[name]["intervals"][key.removesuffix("_interval")])
                    assert widths[0] == pytest.approx(widths[1], rel=0.5, abs=1e-6, nan_ok=True)
    perplexity = load_metric("completion_perplexity").compute(
        prompts=eval_set.prompts, completions=[d.completion for d in eval_set.dialogues], model=str(models["base"])
    )
    assert found.numbers("base")["perplexity"] == pytest.approx(perplexity["perplexity"], rel=1e-4)
    assert "perplexity" not in found.numbers("<b>people</b>")


def test_models_are_told_apart_by_kind_and_content(compared, models) -> None:
    found, _, _ = compared
    assert found.models["base"]["description"] == "model"
    assert found.models["adapter"]["description"] == f"LoRA adapter on {models['base']}"
    assert found.replies["base"] != found.replies["adapter"]
    assert len({entry["fingerprint"] for entry in found.models.values()}) == 3


def test_a_mixture_of_experts_is_a_model_like_others(tmp_path, models) -> None:
    from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(models["base"])
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = MixtralConfig(
        vocab_size=len(tokenizer), num_key_value_heads=2, num_local_experts=2, eos_token_id=1, **size
    )
    MixtralForCausalLM(config).save_pretrained(tmp_path / "moe")
    tokenizer.save_pretrained(tmp_path / "moe")
    assert load_candidate(tmp_path / "moe").description == "mixture of 2 experts"
    found = evaluate_models({"moe": tmp_path / "moe"}, limit=2, decoding=SHORT, resamples=0, store=False, show=False)
    assert len(found.replies["moe"]) == 2


def test_every_tool_adds_its_metric(tmp_path) -> None:
    eval_set = read_eval_set(limit=6)
    Dataset.from_dict({"reply": eval_set.references, "predicted_emotion": eval_set.emotions}).to_json(
        tmp_path / "same.jsonl"
    )

    class Words:
        def predict(self, seekers, responses):
            return np.array([["sorry" in text, 0, 2 * ("?" in text)] for text in responses], int)

    class Sure:
        fingerprint = "sure"

        def choose(self, questions, options):
            return np.tile([0.0, 0.5, 0.5], (len(questions), 1))

    found = evaluate_models(
        predictions=[str(tmp_path / "same.jsonl")], dataset=eval_set, epitome=Words(), judge=Sure(), store=False
    )
    numbers = found.numbers("same")
    assert (numbers["accuracy"], numbers["diff_er"], numbers["empathy"]) == (100.0, 0.0, 2.5)
    assert numbers["sensibility_difference"] == 0
    some = evaluate_models(predictions=[str(tmp_path / "same.jsonl")], dataset=eval_set, metrics=["distinct"])
    assert set(some.numbers("same")) == {"dist1", "dist2", "words"}


@pytest.mark.data
def test_golden_numbers_of_mime_and_of_the_references(real_data, tmp_path) -> None:
    found = evaluate_models(
        predictions={"mime": real_data / "mime_greedy.parquet"}, dataset=str(real_data / "ed_test.parquet"),
        metrics=["dialogue_bleu", "distinct"], tokenizer="whitespace", resamples=0,
    )  # fmt: skip
    assert found.dataset["n"] == 5255
    assert round(found.numbers("mime")["bleu4"], 2) == 2.76  # as its authors report
    references = found.references["numbers"]
    assert (round(references["dist1"], 2), round(references["dist2"], 2)) == (5.96, 36.82)
    assert set(found.emotions) == set(read_eval_set(str(real_data / "ed_test.parquet")).emotions)
    assert len(found.emotions) == 32


# ---------------------------------------------------------------------------------------------- paired differences


def test_pairs() -> None:
    assert pairs_of(["a", "b", "c"]) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert pairs_of(["a", "b", "c"], "b") == [("b", "a"), ("b", "c")]


def test_cut_off_replies_are_counted(compared) -> None:
    found, folder, _ = compared
    cut = {name: entry["cut_off"] for name, entry in found.models.items()}
    assert cut["<b>people</b>"] is None
    for name in ("base", "adapter"):
        assert 0 < cut[name]["count"] <= 12
        assert cut[name]["share"] == cut[name]["count"] / 12
        shown = f"{name} {cut[name]['count']} ({cut[name]['share']:.1%})"
        assert shown in str(found)
        assert shown in (folder / "report.html").read_text(encoding="utf-8")


def test_a_system_message_is_given_to_models(models, tmp_path) -> None:
    options = {"limit": 4, "decoding": SHORT, "metrics": ["completion_perplexity", "empathy_axes"], "resamples": 0}
    options |= {"scorer": "linear", "show": False, "output": tmp_path / "out"}
    plain, told = (
        evaluate_models({"adapter": models["adapter"]}, **options, system=text) for text in (None, "Be kind.")
    )
    assert told.numbers("adapter")["perplexity"] != plain.numbers("adapter")["perplexity"]
    assert told.references["numbers"] == plain.references["numbers"]  # scorers read no system message
    assert (plain.settings["system"], told.settings["system"]) == (None, "Be kind.")
    assert 'the system message "Be kind."' in str(told)
    given = read_eval_set(limit=4).dialogues[0]
    own = replace(given, system="Be kind.").prompt
    kept = [json.loads(line) for line in next((tmp_path / "out/replies").glob("*.jsonl")).read_text().splitlines()[1:]]
    assert prompt_keys([own])[0] in {row["key"] for row in kept}


def test_axes_of_small_numbers_are_read_as_the_tables(tmp_path) -> None:
    numbers = {"bleu1": 0.0, "bleu4": 1.2e-7, "perplexity": 123456.0, "sensibility_difference": -0.5}
    entry = {"numbers": numbers, "intervals": {"bleu4": [0.0, 3e-7]}}
    figure = plots.numbers_figure({"a": entry, "b": entry}, {"numbers": {}, "intervals": {}}, list(numbers))
    figure.savefig(tmp_path / "numbers.png")
    for panel, name in zip(figure.axes, numbers, strict=True):
        low, high = panel.get_xlim()
        assert high - low > 0.099, name
        assert (low < 0) == (name == "sensibility_difference"), name
        assert not panel.xaxis.get_offset_text().get_text(), name


def test_no_row_of_the_differences_says_the_same_twice(compared) -> None:
    found, _, _ = compared
    for pair in found.paired:
        held = [row["difference"] for name, row in pair["numbers"].items() if row["p_holm"] is not None]
        assert len(held) <= len(found.settings["metrics"])
        same = [pair["numbers"][name]["difference"] for name in ("sensibility", "sensibility_difference")]
        assert same[0] == pytest.approx(same[1])
        assert pair["numbers"]["sensibility_difference"]["p_holm"] is None
    numbers, differences = str(found).split("Differences\n")
    assert "sensibility_difference" in numbers
    assert "sensibility_difference" not in differences


def test_one_number_of_each_metric_is_claimed(compared) -> None:
    found, folder, _ = compared
    primary = ["bleu4", "rougeL", "word_f1", "dist2", "sensibility", "perplexity"]
    for pair in found.paired:
        claimed = [name for name in primary if name in pair["numbers"] and pair["numbers"][name]["p"] is not None]
        assert [name for name, row in pair["numbers"].items() if row["p_holm"] is not None] == claimed
        assert len(pair["numbers"]) > 2 * len(claimed)  # the others are shown, with no claim
        corrected = holm({name: pair["numbers"][name]["p"] for name in claimed})
        assert {name: pair["numbers"][name]["p_holm"] for name in claimed} == corrected
    assert len(found.paired[0]["numbers"]) - len(found.paired[1]["numbers"]) == 2  # perplexities, of models alone
    text = (folder / "report.md").read_text(encoding="utf-8")
    for row in re.findall(r"^\| bleu1 \| -?\d.*$", text.split("## Differences")[1], flags=re.MULTILINE):
        assert row.endswith("|  |  |")


def test_conversations_are_drawn_whole(tmp_path) -> None:
    turns = ["it broke", "oh no", "yes , really", "that is sad", "i cried", "i am sorry"]
    draw = np.random.default_rng(0)
    rows = [{"messages": [{"role": ("user", "assistant")[i % 2], "content": f"{text} {n}"} for i, text in
                          enumerate(turns)]} for n in range(20)]  # fmt: skip
    eval_set = read_eval_set(Dataset.from_list(rows))
    assert eval_set.conversations == [3 * (i // 3) for i in range(60)]
    lengths = np.repeat(draw.integers(1, 9, 20), 3)  # the replies to one conversation are alike
    (tmp_path / "r.txt").write_text("\n".join("word " * n for n in lengths), encoding="utf-8")
    options = {"predictions": {"r": tmp_path / "r.txt"}, "metrics": ["distinct"], "store": False, "show": False}
    whole = evaluate_models(dataset=eval_set, **options, resamples=500)
    one_by_one = intervals(means({"words": lengths.astype(float)}), Bootstrap(500))["words"]
    ratio = np.ptp(whole.models["r"]["intervals"]["words"]) / np.ptp(one_by_one)
    assert ratio == pytest.approx(np.sqrt(3), rel=0.15)


def test_references_are_scored_once_for_all_candidates(tmp_path) -> None:
    eval_set = read_eval_set(limit=4)
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text(f"{name}\n" * 4, encoding="utf-8")
    scorer, levels = WordScorer(), []

    class Levels:
        def predict(self, seekers, responses):
            levels.extend(responses)
            return np.zeros((len(responses), 3), int)

    files = {name: tmp_path / f"{name}.txt" for name in ("a", "b", "c")}
    evaluate_models(
        predictions=files, dataset=eval_set, scorer=scorer, epitome=Levels(), store=False, resamples=0, show=False
    )
    assert scorer.asked == 4 * len(files) + 4
    assert sorted(levels) == sorted([*"aaaabbbbcccc", *eval_set.references])


# ---------------------------------------------------------------------------------------------- the report


def test_json_is_whole_and_valid(compared) -> None:
    found, folder, eval_set = compared
    data = json.loads((folder / "report.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert data["dataset"]["fingerprint"] == eval_set.fingerprint
    assert set(data["models"]) == set(found.models)
    assert len(data["paired"]) == 3
    assert data["settings"]["decoding"] == {"max_new_tokens": 8, "temperature": 0.0}
    lines = [json.loads(line) for line in (folder / "replies.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["adapter"] for line in lines] == found.replies["adapter"]


def test_hostile_text_stays_text_in_the_page(compared) -> None:
    _, folder, _ = compared
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"<script|<img src=x|<b>people", page)
    tags = set(re.findall(r"<([a-z0-9]+)", page))
    assert tags <= {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "code", "table", "caption", "thead",
        "tbody", "tr", "th", "td", "img",
    }  # fmt: skip
    assert "default-src 'none'" in page
    shown = [text for text in HOSTILE[:4] if html.escape(text, quote=True).replace("&#x27;", "&#39;") in page]
    assert shown  # it is there, as text
    assert "http" not in re.sub(r"Content-Security-Policy|http-equiv", "", page)  # nothing is loaded from elsewhere
    assert page.count("data:image/png;base64,") == 4


def test_a_comparison_shows_itself_in_a_notebook_and_in_a_terminal(compared) -> None:
    found, out, _ = compared
    html = found._repr_html_()
    assert "<b>people" not in html
    assert "&lt;b&gt;people&lt;/b&gt;" in html
    low, high = found.models["base"]["intervals"]["dist1"]
    assert f"{found.numbers('base')['dist1']:.2f} ({low:.2f} to {high:.2f})" in html
    assert html.count("<table>") == 2 + len(found.paired)
    assert found.markdown() in (out / "report.md").read_text(encoding="utf-8")
    assert "## Differences" in found.markdown()
    assert "Differences" in str(found)
    assert "adapter minus base" in str(found)


def test_hostile_text_stays_text_in_markdown(compared) -> None:
    _, folder, _ = compared
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<img" not in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert tables
    assert "&lt;b>people&lt;/b>" in text


def test_examples_are_those_that_lie_furthest_apart(compared) -> None:
    found, _, eval_set = compared
    apart = [example["apart"] for example in found.examples]
    assert apart == sorted(apart, reverse=True)
    first = found.examples[0]
    assert first["reference"] == eval_set.references[first["index"]]
    scores = [reply["sensibility"] for reply in first["replies"].values()]
    assert max(np.nan_to_num(scores)) > min(np.nan_to_num(scores))


def test_emotion_table_adds_up(compared) -> None:
    found, _, eval_set = compared
    assert sum(row["n"] for row in found.emotions.values()) == len(eval_set)
    total = sum(row["n"] * row["models"]["adapter"]["rougeL"] for row in found.emotions.values())
    assert total / len(eval_set) == pytest.approx(found.numbers("adapter")["rougeL"])


def test_without_picture_library_the_page_is_left_out(compared, monkeypatch, caplog, tmp_path) -> None:
    import builtins

    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)
    path = compared[0].write(tmp_path)
    assert path.name == "report.md"
    assert "ee-trl[report]" in caplog.text
    assert not (tmp_path / "report.html").exists()


def test_a_report_of_some_metrics_leaves_out_their_pictures(tmp_path, capsys) -> None:
    (tmp_path / "r.txt").write_text("one\ntwo words\n", encoding="utf-8")
    options = {"predictions": {"r": tmp_path / "r.txt"}, "limit": 2, "resamples": 20, "store": False}
    page = evaluate_models(**options, metrics=["distinct"]).write(tmp_path / "out")
    assert page.name == "report.html"
    text = page.read_text(encoding="utf-8")
    assert "Sensibility and rationality" not in text
    assert text.count("data:image/png;base64,") == 2  # the numbers, and words by emotion
    load_sample("test").to_parquet(tmp_path / "test.parquet")
    command = ["evaluate", str(tmp_path / "test.parquet"), "--predictions", str(tmp_path / "r.txt"), "--limit", "2"]
    assert main([*command, "--metrics", "dialogue_bleu", "-o", str(tmp_path / "cli"), "-q", "--no-store"]) == 0
    assert "\nbleu4 " in capsys.readouterr().out
    assert (tmp_path / "cli" / "report.html").stat().st_size


def test_a_report_that_fails_leaves_no_file(compared, tmp_path, monkeypatch) -> None:
    from ee_trl.evaluation import report

    monkeypatch.setattr(report, "html_page", lambda data: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compared[0].write(tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------- the command line


def test_the_command(models, tmp_path, capsys) -> None:
    load_sample("test").to_parquet(tmp_path / "test.parquet")
    options = ["--max-new-tokens", "6", "--limit", "5", "--resamples", "50", "-q", "--no-store"]
    command = [
        "evaluate",
        str(tmp_path / "test.parquet"),
        "--model",
        f"base={models['base']}",
        "-o",
        str(tmp_path / "o"),
    ]
    assert main([*command, "--model", str(models["adapter"]), *options]) == 0
    out = capsys.readouterr().out
    assert re.search("number +base +adapter +references", out)
    assert "adapter minus base" in out
    for name in ("report.json", "report.md", "report.html", "replies.jsonl"):
        assert (tmp_path / "o" / name).stat().st_size
    assert len(list((tmp_path / "o" / "replies").iterdir())) == 2
    assert main([*command, *options]) == 3
    assert "report.json' already there" in capsys.readouterr().err
    assert main([*command, *options, "--overwrite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"]["base"]["numbers"]["words"] >= 0


def test_the_first_process_of_a_launch_speaks_for_all(tmp_path, capsys, monkeypatch) -> None:
    (tmp_path / "r.txt").write_text("one\ntwo\n", encoding="utf-8")
    load_sample("test").to_parquet(tmp_path / "test.parquet")
    command = ["evaluate", str(tmp_path / "test.parquet"), "--predictions", str(tmp_path / "r.txt"), "--limit", "2"]
    monkeypatch.setenv("RANK", "1")
    assert main([*command, "--metrics", "distinct", "-o", str(tmp_path / "out"), "-q", "--no-store", "--json"]) == 0
    assert not capsys.readouterr().out


def test_what_cannot_be_evaluated_is_refused_before_anything_is_generated(models, tmp_path, monkeypatch) -> None:
    from ee_trl.evaluation import comparison

    monkeypatch.setattr(comparison, "generate_replies", lambda *args, **kwargs: pytest.fail("generated"))
    base = str(models["base"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "few.txt").write_text("one\ntwo\n", encoding="utf-8")
    Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "other.parquet")
    wrong = Dataset.from_dict({"prediction": ["a"] * 3, "reference": ["not it"] * 3})
    wrong.to_parquet(tmp_path / "wrong.parquet")
    for name, third in (("null", None), ("label", "proudd")):
        emotions = Dataset.from_dict({"prediction": ["a"] * 3, "predicted_emotion": ["sad", "proud", third]})
        emotions.to_parquet(tmp_path / f"{name}.parquet")
    encoder = str(tiny_encoder(tmp_path / "encoder"))
    for options, message in (
        ({}, "nothing to evaluate"),
        ({"models": [base, base]}, "two candidates are called 'base'"),
        ({"models": [str(tmp_path / "none")]}, "no such folder"),
        ({"models": [str(tmp_path / "empty")]}, "neither a model"),
        ({"models": [base], "baseline": "bse"}, "unknown baseline 'bse'; valid: base"),
        ({"models": [base], "metrics": ["blue"]}, "unknown metric 'blue'"),
        ({"models": [base], "tokenizer": "spacy"}, "unknown tokenizer 'spacy'"),
        ({"models": [base], "epitome": str(tmp_path)}, "holds no EPITOME classifier"),
        ({"models": [base], "judge": 5}, "is not a judge"),
        ({"models": [base], "limit": 0}, "limit 0"),
        ({"models": [base], "predictions": [str(tmp_path / "few.txt")]}, "holds 2 replies, the evaluation set 3"),
        (
            {"models": [base], "predictions": [str(tmp_path / "other.parquet")]},
            "no column 'prediction' or 'reply' or 'other'",
        ),
        ({"models": [base], "predictions": [str(tmp_path / "wrong.parquet")]}, "other references"),
        ({"predictions": [str(tmp_path / "none.txt")]}, "no such file"),
        ({"models": [base], "predictions": [str(tmp_path / "null.parquet")]}, "predicted_emotion[2] must be a string"),
        ({"models": [base], "predictions": [str(tmp_path / "label.parquet")]}, "Did you mean 'proud'?"),
        ({"models": [base], "resamples": -1}, "resamples -1 is not a whole number of at least 0"),
        ({"models": [base], "confidence": 95}, "confidence 95 is not a share between 0 and 1"),
        ({"models": [base], "seed": -1}, "seed -1 is not a whole number of at least 0"),
        ({"models": [base], "batch_size": 0}, "batch_size 0 is not a whole number of at least 1"),
        (
            {"models": [base], "bertscore_model": str(tmp_path / "nosuch")},
            f"bertscore_model '{tmp_path / 'nosuch'}' is",
        ),
        (
            {"models": [base], "bertscore_model": encoder, "bertscore_layers": 99},
            "bertscore_layers 99 is not valid; valid: 1 to 2",
        ),
    ):
        with pytest.raises(EmpathyError, match=re.escape(message)):
            evaluate_models(**{"limit": 3, "store": False, **options})


def test_wrong_numbers_on_the_command_line_are_refused_with_a_message(models, tmp_path, capsys) -> None:
    load_sample("test").to_parquet(tmp_path / "test.parquet")
    command = ["evaluate", str(tmp_path / "test.parquet"), "--model", str(models["base"]), "-o", str(tmp_path / "o")]
    for option, value in (("--resamples", "-1"), ("--batch-size", "0"), ("--max-new-tokens", "0"), ("--top-p", "2")):
        assert main([*command, option, value]) == 3
        assert f"{option[2:].replace('-', '_')} {value}" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_emotions_that_are_not_those_of_the_data_set_are_not_measured(tmp_path) -> None:
    rows = [{"context": ["it broke"], "response": "oh no", "emotion": emotion} for emotion in ("bored", "sad")]
    Dataset.from_dict({"prediction": ["a", "b"], "predicted_emotion": ["bored", None]}).to_parquet(
        tmp_path / "own.parquet"
    )
    found = evaluate_models(
        predictions=[str(tmp_path / "own.parquet")], dataset=Dataset.from_list(rows), store=False, resamples=0
    )
    assert "accuracy" not in found.numbers("own")
    assert set(found.emotions) == {"bored", "sad"}
    assert "emotion_accuracy needs an emotion of EmpatheticDialogues for each dialogue" in str(found)


def test_replies_of_a_report_are_read_again(compared) -> None:
    found, folder, eval_set = compared
    for name in ("base", "adapter"):
        assert read_replies(folder / "replies.jsonl", eval_set, name).texts == found.replies[name]
    with pytest.raises(FormatError, match="no column 'prediction' or 'reply' or 'other'; it has index, base, adapter"):
        read_replies(folder / "replies.jsonl", eval_set, "other")


def test_the_judge_compares_candidates_on_request(tmp_path) -> None:
    eval_set = read_eval_set(limit=3)
    (tmp_path / "long.txt").write_text("a long reply\n" * 3, encoding="utf-8")
    (tmp_path / "short.txt").write_text("a\n\nb\n", encoding="utf-8")

    class Longest:
        fingerprint = "longest"

        def choose(self, questions, options):
            if len(questions[0].candidates) == 1:
                return np.full((len(questions), 3), 1 / 3)
            lengths = [[len(text) for _, text in question.candidates] for question in questions]
            return np.array([[float(a > b), float(b > a), float(a == b)] for a, b in lengths])

    files = {name: tmp_path / f"{name}.txt" for name in ("long", "short")}
    options = {"predictions": files, "dataset": eval_set, "store": False, "metrics": ["judge", "empathy_axes"]}
    found = evaluate_models(**options, judge=Longest(), judge_pairs=True, resamples=20, output=tmp_path / "out")
    [pair] = found.paired
    assert (pair["judge"]["empathy_lose"], pair["judge"]["empathy_position_bias"]) == (1.0, 0.0)
    assert "short 1" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")  # the blank reply is unscored
    for name in ("report.md", "report.html"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert "position bias" in text
        assert "long wins" in text
    with pytest.raises(EmpathyError, match="judge_pairs needs a judge"):
        evaluate_models(**options, judge_pairs=True)


def test_any_scorer_gives_the_axes(tmp_path) -> None:
    eval_set = read_eval_set(limit=3)
    (tmp_path / "r.txt").write_text("one\none two ?\none two three\n", encoding="utf-8")
    found = evaluate_models(predictions={"r": tmp_path / "r.txt"}, dataset=eval_set, scorer=WordScorer(), store=False)
    assert found.numbers("r")["sensibility"] == pytest.approx((1 + 3 + 3) / 3)
    assert found.settings["scorer"] == "words-1"
