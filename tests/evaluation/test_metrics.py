"""The metrics in `evaluation/`: one contract for all of them, found by enumeration, and the numbers of each."""

from __future__ import annotations

import doctest
import importlib
import math
import os
import random
import re
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import evaluate
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ee_trl.errors import EmpathyError
from ee_trl.evaluation.bootstrap import means


ROOT = Path(__file__).resolve().parents[2]
METRICS = sorted(path.parent.name for path in ROOT.glob("evaluation/*/*.py") if path.stem == path.parent.name)
CARD_SECTIONS = [
    "## Metric description",
    "## How to use",
    "### Inputs",
    "### Output values",
    "## Depends on",
    "## Limitations",
    "## Citation",
]
# what the contract tests feed a metric, by the columns that it asks for; a new kind of metric adds its own here
SAMPLES = {
    "predictions": ["i am so so sorry", "that is great news !", "oh no", "i hope that you get well soon"],
    "references": ["i am sorry to hear that", "that is so great !", "oh no , why ?", "get well soon , my friend"],
    "prompts": ["i am sad", "i won", "it is cold", "we are here"],
    "completions": [" so sorry", " great news", " put a coat on", " hello there friend"],
    "contexts": [
        ["my dog died"],
        ["i won !", "what ?", "the cup"],
        [{"role": "user", "content": "it broke"}],
        "i am ill",
    ],
}
# of metrics whose columns hold something else under these names
OWN_SAMPLES = {
    "emotion_accuracy": {
        "predictions": ["sad", "proud", "angry", "sad"],
        "references": ["sad", "joyful", "furious", "sad"],
    },
}
VOCABULARY = sorted(
    {word for name, texts in SAMPLES.items() if name != "contexts" for text in texts for word in text.split()}
)
OPTIONS = {
    "completion_perplexity": ("model", "tokenizer"),
    "epitome": ("classifier",),
    "judge": ("judge",),
}


class Words:
    """An EPITOME classifier that goes by words."""

    def predict(self, seekers, responses) -> np.ndarray:
        return np.array([["sorry" in text, "hope" in text, 2 * ("?" in text)] for text in responses], int)


class LongestReply:
    """A judge that likes length, and a little more what comes first."""

    fingerprint = "longest"

    def choose(self, questions, options) -> np.ndarray:
        if tuple(options) == ("A", "B", "C"):
            lengths = np.array([[len(text) for _, text in question.candidates] for question in questions], float)
            return np.stack([lengths[:, 0] + 2, lengths[:, 1], lengths[:, 0] * 0 + 1], axis=1) / (
                lengths.sum(axis=1, keepdims=True) + 3
            )
        share = np.array([min(len(question.candidates[0][1]) / 40, 1) for question in questions])
        return np.stack([(1 - share) / 2, (1 - share) / 2, share], axis=1)


CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


@pytest.fixture(scope="module")
def tiny() -> dict:
    """A causal language model of random weights, and its tokenizer of whole words: made here, not downloaded."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<unk>", "<eos>", "<user>", "<assistant>", "<end>", *VOCABULARY]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "<eos>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=CHAT_TEMPLATE, **special)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    # dropout shows a model that is measured in train mode
    options = {"initializer_range": 0.5, "attention_dropout": 0.5, "bos_token_id": 2, "eos_token_id": 2}
    config = LlamaConfig(vocab_size=len(words), **size, **options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {"model": LlamaForCausalLM(config).eval(), "tokenizer": tokenizer}


@pytest.fixture(scope="module")
def tools(tiny, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """All that metrics are computed with."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = build_encoder(tmp_path_factory.mktemp("encoder"), list(tiny["tokenizer"].get_vocab()))
    return {**tiny, "encoder": encoder, "classifier": Words(), "judge": LongestReply()}


def build_encoder(folder: Path, words: list[str]) -> str:
    """A BERT of random weights, and its tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=64, initializer_range=0.5, **size)
    BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory):
    cache = str(tmp_path_factory.mktemp("metrics"))
    return lambda name: evaluate.load(str(ROOT / "evaluation" / name), cache_dir=cache)


def arithmetic(name: str):
    """The module of a metric's arithmetic."""
    return importlib.import_module(f"ee_trl.evaluation.metrics.{name}")


def columns_of(metric: evaluate.EvaluationModule) -> dict[str, list]:
    return {name: OWN_SAMPLES.get(metric.name, SAMPLES)[name] for name in metric.features}


def options_of(name: str, tools: dict) -> dict:
    if name == "bertscore":
        return {"model": tools["encoder"]}
    if name == "empathy_axes":
        return {"scorer": "linear"}
    return {key: tools[key] for key in OPTIONS.get(name, ())}


def flat(scores: dict) -> dict:
    """A metric's result without nested mappings."""
    inner = {
        f"{key} {name}": v for key, value in scores.items() if isinstance(value, dict) for name, v in value.items()
    }
    return {key: value for key, value in scores.items() if not isinstance(value, dict)} | inner


def read_data(name: str) -> dict[str, list]:
    if "EE_TRL_DATA" not in os.environ:
        pytest.skip("real data is needed: set EE_TRL_DATA to the folder that holds it")
    return pq.read_table(Path(os.environ["EE_TRL_DATA"]) / name).to_pydict()


def run_doctest(text: str, name: str) -> None:
    text = re.sub(r"^```.*$", "", text, flags=re.MULTILINE)  # a closing fence would pass for expected output
    results = doctest.DocTestRunner().run(doctest.DocTestParser().get_doctest(text, {}, name, None, 0))
    assert results.attempted > 0
    assert results.failed == 0


# ---------------------------------------------------------------------------------------------- every metric


def test_metrics_are_found() -> None:
    assert {"completion_perplexity", "dialogue_bleu", "dialogue_rouge", "distinct", "word_f1"} <= set(METRICS)
    assert {path.parent.name for path in ROOT.glob("evaluation/*/README.md")} == set(METRICS)
    assert set(METRICS) <= {path.stem for path in ROOT.glob("evaluation/metrics/*.py")}


@pytest.mark.parametrize("name", METRICS)
def test_card_and_doctests(name, load, monkeypatch) -> None:
    card = (ROOT / "evaluation" / name / "README.md").read_text(encoding="utf-8")
    assert [line for line in card.splitlines() if line in CARD_SECTIONS] == CARD_SECTIONS
    monkeypatch.chdir(ROOT)  # examples load the metric by its folder in the repository
    run_doctest(card, f"{name}/README.md")
    metric = load(name)
    assert metric.description.strip()
    assert "@" in metric.citation
    assert metric.reference_urls
    run_doctest(metric.inputs_description, name)


@pytest.mark.parametrize("name", [f"metrics.{name}" for name in METRICS] + ["bootstrap"])
def test_doctests_of_the_arithmetic(name) -> None:
    assert doctest.testmod(importlib.import_module(f"ee_trl.evaluation.{name}")).failed == 0


@pytest.mark.parametrize("name", METRICS)
def test_a_folder_is_a_shim(name) -> None:
    script = (ROOT / "evaluation" / name / f"{name}.py").read_text(encoding="utf-8")
    assert len(script.splitlines()) < 25  # the arithmetic is in the package, which evaluate does not copy
    assert [path.name for path in (ROOT / "evaluation" / name).glob("*.py")] == [f"{name}.py"]


def test_loads_without_network(load, monkeypatch) -> None:
    asked: list[tuple] = []

    def refuse(*args, **kwargs) -> None:
        asked.append(args)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    # evaluate takes the name from that of the class
    assert [load(name).name.replace("_", "") for name in METRICS] == [name.replace("_", "") for name in METRICS]
    assert not asked


def test_arithmetic_imports_without_evaluate() -> None:
    script = (
        "import sys, importlib\nsys.modules['evaluate'] = None\nfor n in sys.argv[1:]: importlib.import_module(n)\n"
    )
    names = [f"ee_trl.evaluation.metrics.{name}" for name in METRICS]
    done = subprocess.run([sys.executable, "-c", script, *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", METRICS)
def test_same_number_in_batches_one_by_one_and_in_any_order(name, load, tools) -> None:
    metric, options = load(name), options_of(name, tools)
    columns = columns_of(metric)
    whole = metric.compute(**columns, **options)
    assert whole["n"] == 4
    for size in (1, 3):
        for i in range(0, 4, size):
            metric.add_batch(**{key: values[i : i + size] for key, values in columns.items()})
        assert flat(metric.compute(**options)) == pytest.approx(flat(whole))
    singular = {"predictions": "prediction", "references": "reference"}
    for i in range(4):
        metric.add(**{singular.get(key, key): values[i] for key, values in columns.items()})
    assert flat(metric.compute(**options)) == pytest.approx(flat(whole))
    backwards = {key: values[::-1] for key, values in columns.items()}
    assert flat(metric.compute(**backwards, **options)) == pytest.approx(flat(whole))


@pytest.mark.parametrize("name", METRICS)
def test_refuses_what_it_cannot_measure(name, load, tools) -> None:
    metric, options = load(name), options_of(name, tools)
    columns = columns_of(metric)
    first = next(iter(columns))
    with pytest.raises(ValueError, match="no samples: 0 were added"):
        metric.compute(**options)
    with pytest.raises(ValueError, match="0 (texts|samples) given"):
        metric.compute(**{key: [] for key in columns}, **options)
    for bad in (None, 5, 1.5, ["a"]):
        with pytest.raises(TypeError, match=re.escape(f"{first}[1]")):
            metric.compute(**{**columns, first: ["a", bad, "c", "d"]}, **options)
    with pytest.raises(TypeError, match="must be a list"):
        metric.compute(**{**columns, first: "a"}, **options)
    with pytest.raises(TypeError, match="unknown option 'tokeniser'; valid: .*resamples, confidence, seed, clusters"):
        metric.compute(**columns, **options, tokeniser="nltk")
    for last in list(columns)[1:]:
        with pytest.raises(ValueError, match=f"4 {first} and .*3 {last}"):
            metric.compute(**{**columns, last: columns[last][:3]}, **options)
        with pytest.raises(ValueError, match=f"{last}: none given"):
            metric.compute(**{**columns, last: None}, **options)
    # none of it is left behind, and samples are counted from the first that was added
    metric.add_batch(**columns)
    with pytest.raises(TypeError, match=re.escape(f"{first}[4]")):
        metric.add_batch(**{**columns, first: [5, "b", "c", "d"]})
    assert metric.compute(**options)["n"] == 4


@pytest.mark.parametrize("name", METRICS)
def test_intervals_on_request(name, load, tools) -> None:
    metric, options = load(name), options_of(name, tools)
    columns = columns_of(metric)
    whole = metric.compute(**columns, **options)
    assert not [key for key in whole if key.endswith("_interval")]
    found = metric.compute(**columns, **options, resamples=200)
    ends = {key: value for key, value in found.items() if key.endswith("_interval")}
    assert ends
    for key, (low, high) in ends.items():
        assert math.isnan(low) or low - 1e-9 <= whole[key.removesuffix("_interval")] <= high + 1e-9
    wider = metric.compute(**columns, **options, resamples=200, confidence=0.999)
    for i in range(4):
        metric.add_batch(**{key: values[i : i + 1] for key, values in columns.items()})
    again = metric.compute(**options, resamples=200)
    backwards = metric.compute(**{key: values[::-1] for key, values in columns.items()}, **options, resamples=200)
    for key, (low, high) in ends.items():
        for same in (again[key], backwards[key]):
            assert same == pytest.approx([low, high], nan_ok=True)
        assert math.isnan(low) or (wider[key][0] <= low and high <= wider[key][1])
    for bad in ({"resamples": -1}, {"resamples": 1.5}, {"resamples": 10, "confidence": 1}):
        with pytest.raises(ValueError, match=f"{list(bad)[-1]} .* is not a"):
            metric.compute(**columns, **options, **bad)


def test_difficulty_is_the_perplexity_given_the_context_over_that_without(tiny: dict) -> None:
    from datasets import Dataset

    from ee_trl.evaluation.candidates import LoadedModel
    from ee_trl.evaluation.difficulty import add_difficulty
    from ee_trl.evaluation.metrics.completion_perplexity import batch_nll, tokenize_sample

    rows = [
        {"context": [text], "response": reply}
        for text, reply in zip(SAMPLES["prompts"], SAMPLES["completions"], strict=True)
    ]
    rows.insert(1, {"context": ["alone"], "response": None})
    loaded = LoadedModel(tiny["model"].eval(), tiny["tokenizer"])
    found = add_difficulty(Dataset.from_list(rows), loaded, "ifd")["ifd"][:]
    assert found[1] is None
    for row, value in zip(rows, found, strict=True):
        if row["response"]:
            messages = [
                {"role": "user", "content": row["context"][0]},
                {"role": "assistant", "content": row["response"]},
            ]
            sample = tokenize_sample(messages[:1], messages[1:], tiny["tokenizer"])
            reply = type(sample)(sample.ids[sample.start :], 0)
            given, alone = (math.exp(batch_nll([s], tiny["model"])[0] / s.scored) for s in (sample, reply))
            assert value == (pytest.approx(given / alone, rel=1e-4) if given < alone else None)


def resamplers(tiny: dict) -> dict:
    """Metric -> its resampler over the samples, and its plain function of the columns."""
    from ee_trl.evaluation.metrics import completion_perplexity, dialogue_bleu, dialogue_rouge, distinct, word_f1

    tokens = {name: [text.split() for text in SAMPLES[name]] for name in ("predictions", "references")}
    pairs = (tokens["predictions"], tokens["references"])
    texts = ("predictions", "references")
    tokenized = [
        completion_perplexity.tokenize_sample(p, c, tiny["tokenizer"])
        for p, c in zip(SAMPLES["prompts"], SAMPLES["completions"], strict=True)
    ]
    nlls = completion_perplexity.sample_nlls(tokenized, tiny["model"])
    scored = [sample.scored for sample in tokenized]
    return {
        "distinct": (
            distinct.DistinctResampler(pairs[0]),
            lambda predictions: distinct.distinct_scores(predictions, "whitespace"),
            ("predictions",),
        ),
        "dialogue_bleu": (
            dialogue_bleu.bleu_resampler(pairs[0], [[ref] for ref in pairs[1]]), dialogue_bleu.bleu_scores, texts
        ),
        "word_f1": (word_f1.word_f1_resampler(*pairs), word_f1.word_f1_scores, texts),
        "dialogue_rouge": (
            means(dialogue_rouge.sample_scores(SAMPLES["predictions"], SAMPLES["references"])),
            dialogue_rouge.rouge_scores,
            texts,
        ),
        "completion_perplexity": (
            completion_perplexity.perplexity_resampler(nlls, scored),
            lambda p, c: completion_perplexity.perplexity_scores(p, c, **tiny),
            ("prompts", "completions"),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("counts", [[1, 1, 1, 1], [2, 0, 1, 1], [0, 0, 4, 0], [0, 1, 0, 3]])
@pytest.mark.parametrize("name", ["distinct", "dialogue_bleu", "word_f1", "dialogue_rouge", "completion_perplexity"])
def test_a_resample_is_the_metric_of_the_samples_drawn(name, counts, tiny) -> None:
    resampler, function, names = resamplers(tiny)[name]
    found = resampler.values(np.array([counts], float))
    drawn = [[SAMPLES[key][i] for i, times in enumerate(counts) for _ in range(times)] for key in names]
    direct = function(*drawn)
    assert found
    for key, values in found.items():
        assert values[0] == pytest.approx(direct[key], rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("name", ["word_f1", "distinct"])
def test_intervals_by_cluster_do_not_depend_on_the_order_of_the_data(name, load) -> None:
    metric = load(name)
    columns, clusters = columns_of(metric), ["x", "y", "x", "y"]
    found = metric.compute(**columns, resamples=200, clusters=clusters)
    order = [3, 0, 2, 1]
    moved = {key: [values[i] for i in order] for key, values in columns.items()}
    again = metric.compute(**moved, resamples=200, clusters=[clusters[i] for i in order])
    for key, value in found.items():
        assert again[key] == pytest.approx(value)
    assert found != metric.compute(**columns, resamples=200)


# ---------------------------------------------------------------------------------------------- each metric


def nltk_bleu(predictions, references, order) -> float:
    from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu

    tokens = [text.split() for text in predictions]
    lists = [[ref.split() for ref in ([refs] if isinstance(refs, str) else refs)] for refs in references]
    return 100 * corpus_bleu(lists, tokens, [1 / order] * order, SmoothingFunction(epsilon=1e-12).method1)


def test_bleu_by_hand(load) -> None:
    scores = load("dialogue_bleu").compute(predictions=["a b c", "a b"], references=["a b d e", "a b"])
    # matches: 4 of 5 words, 2 of 3 pairs; no triple, of 1 (and 1 that nltk counts for the pair of words); r=6, c=5
    penalty = math.exp(1 - 6 / 5)
    assert scores["bleu1"] == pytest.approx(100 * penalty * 4 / 5)
    assert scores["bleu2"] == pytest.approx(100 * penalty * math.sqrt(4 / 5 * 2 / 3))
    assert scores["bleu3"] == pytest.approx(100 * penalty * (4 / 5 * 2 / 3 * 1e-12 / 2) ** (1 / 3))
    assert scores["brevity_penalty"] == pytest.approx(penalty)
    assert (scores["prediction_length"], scores["reference_length"], scores["n"]) == (5, 6, 2)


def test_bleu_agrees_with_nltk_and_sacrebleu(load) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    rng = random.Random(0)
    texts = [[" ".join(rng.choices("abcde", k=rng.randint(4, 9))) for _ in range(40)] for _ in range(3)]
    pairs = [list(pair) for pair in zip(texts[1], texts[2], strict=True)]
    mixed = [pair if i % 2 else pair[0] for i, pair in enumerate(pairs)]  # strings and lists in one corpus
    metric = load("dialogue_bleu")
    for references in (texts[1], pairs, mixed):
        scores = metric.compute(predictions=texts[0], references=references)
        for order in (1, 2, 3, 4):
            assert scores[f"bleu{order}"] == pytest.approx(nltk_bleu(texts[0], references, order), abs=1e-9)
    scores = metric.compute(predictions=texts[0], references=pairs)
    for order in (1, 2, 3, 4):
        kwargs = {"tokenize": "none", "smooth_method": "floor", "smooth_value": 1e-12, "max_ngram_order": order}
        other = sacrebleu.metrics.BLEU(**kwargs).corpus_score(texts[0], texts[1:])
        assert scores[f"bleu{order}"] == pytest.approx(other.score, abs=1e-9)
    assert scores["brevity_penalty"] == pytest.approx(other.bp)
    assert (scores["prediction_length"], scores["reference_length"]) == (other.sys_len, other.ref_len)


def test_bleu_edges(load) -> None:
    metric = load("dialogue_bleu")
    assert metric.compute(predictions=[""], references=["a"])["bleu1"] == 0
    assert metric.compute(predictions=["b"], references=["a"])["bleu4"] == 0
    with pytest.raises(ValueError, match=re.escape("references[1]: 0 texts given")):
        metric.compute(predictions=["a", "b"], references=["a", []])
    with pytest.raises(TypeError, match=re.escape("references[0][1] must be a string")):
        metric.compute(predictions=["a"], references=[["a", None]])


@pytest.mark.data
def test_bleu_of_mime(load) -> None:
    data = read_data("mime_greedy.parquet")
    scores = load("dialogue_bleu").compute(predictions=data["prediction"], references=data["reference"])
    assert scores["n"] == 5255
    assert round(scores["bleu4"], 2) == 2.76  # as its authors report
    assert [round(scores[f"bleu{order}"], 2) for order in (1, 2, 3)] == [21.83, 9.61, 4.78]


def test_tokenizers(load) -> None:
    metric = load("word_f1")
    one = {"predictions": ["I'm SORRY!"], "references": ["i 'm sorry !"]}
    assert metric.compute(**one)["word_f1"] == 0
    assert metric.compute(**one, tokenizer="nltk")["word_f1"] == 100
    assert metric.compute(**one, tokenizer=lambda text: re.findall("[a-z]+", text.lower()))["word_f1"] == 100
    with pytest.raises(ValueError, match="unknown tokenizer 'spacy'; valid: whitespace, nltk, or a callable"):
        metric.compute(**one, tokenizer="spacy")
    assert metric.compute(**one)["n"] == 1  # a failed computation leaves nothing behind


def test_distinct_by_hand(load) -> None:
    metric = load("distinct")
    texts = ["a b a b", "a c", "d"]  # words: 4 of 7; pairs: ab, ba, ab, ac
    expected = {"dist1": 400 / 7, "dist2": 75.0, "n": 3}
    assert metric.compute(predictions=texts, tokenizer="whitespace") == pytest.approx(expected)
    assert metric.compute(predictions=texts, tokenizer="whitespace", truncate_to=1) == {
        "dist1": 50.0,
        "dist2": pytest.approx(200 / 3),
        "n": 1,
    }
    assert metric.compute(predictions=["", "a"]) == {"dist1": 100.0, "dist2": 0.0, "n": 2}
    with pytest.raises(ValueError, match="truncate_to is 4, but there are only 3 predictions"):
        metric.compute(predictions=texts, truncate_to=4)
    for bad, error in ((0, ValueError), (True, TypeError), (1.5, TypeError)):
        with pytest.raises(error, match="truncate_to must be"):
            metric.compute(predictions=texts, truncate_to=bad)


@pytest.mark.data
@pytest.mark.parametrize(("tokenizer", "expected"), [("nltk", (5.95, 36.82)), ("whitespace", (5.96, 36.82))])
def test_distinct_of_human_replies(tokenizer, expected, load) -> None:
    replies = read_data("ed_test.parquet")["response"]
    scores = load("distinct").compute(predictions=replies, tokenizer=tokenizer)
    assert (round(scores["dist1"], 2), round(scores["dist2"], 2)) == expected
    assert scores["n"] == 5255


def test_rouge_by_hand(load) -> None:
    metric = load("dialogue_rouge")
    one = {"predictions": ["the cats sat", "yes"], "references": ["sat the cat", "no"]}
    # plain: "the" and "sat" are shared, no pair is, and the longest common subsequence is one word
    expected = {"rouge1": 100 * (2 / 3) / 2, "rouge2": 0.0, "rougeL": 100 * (1 / 3) / 2, "n": 2}
    assert metric.compute(**one) == pytest.approx(expected)
    stemmed = {"rouge1": 50.0, "rouge2": 25.0, "rougeL": 100 * (2 / 3) / 2, "n": 2}
    assert metric.compute(**one, use_stemmer=True) == pytest.approx(stemmed)
    other_script = {"predictions": ["我 很 抱歉"], "references": ["我 很 抱歉"]}
    assert metric.compute(**other_script)["rouge1"] == 0
    assert metric.compute(**other_script, tokenizer="whitespace")["rougeL"] == 100
    with pytest.raises(ValueError, match="use_stemmer"):
        metric.compute(**one, use_stemmer=True, tokenizer="nltk")


def test_word_f1_by_hand(load) -> None:
    metric = load("word_f1")
    # matches are clipped: a, b of the first; none of the second, although "c" stands in the first reference
    scores = metric.compute(predictions=["a a b", "c"], references=["a b b c", "d"])
    assert scores == pytest.approx({"word_f1": 100 * 4 / 9, "precision": 50.0, "recall": 40.0, "n": 2})
    # "a" twice in both counts twice
    assert metric.compute(predictions=["a a"], references=["a a a"])["recall"] == pytest.approx(200 / 3)
    assert metric.compute(predictions=[""], references=[""])["word_f1"] == 0


# ---------------------------------------------------------------------------------------------- perplexity


def chat(texts: list[str], role: str) -> list[list[dict]]:
    return [[{"role": role, "content": text.strip()}] for text in texts]


PLAIN = {"prompts": SAMPLES["prompts"], "completions": SAMPLES["completions"]}
CHAT = {"prompts": chat(SAMPLES["prompts"], "user"), "completions": chat(SAMPLES["completions"], "assistant")}


def nll_by_hand(tiny: dict, texts: list[tuple[str, str]]) -> tuple[float, int]:
    total, tokens = 0.0, 0
    for prompt, completion in texts:
        first = len(tiny["tokenizer"](prompt)["input_ids"])
        ids = tiny["tokenizer"](prompt + completion)["input_ids"]
        logprobs = tiny["model"].eval()(torch.tensor([ids])).logits[0].log_softmax(-1)
        total -= sum(logprobs[i - 1, ids[i]].item() for i in range(first, len(ids)))
        tokens += len(ids) - first
    return total / tokens, tokens


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_perplexity_by_hand(batch_size, load, tiny) -> None:
    plain = [(p, c + "<eos>") for p, c in zip(*PLAIN.values(), strict=True)]
    rendered = [
        (f"<user> {p} <end> <assistant>", f"{c} <end>")
        for p, c in zip(SAMPLES["prompts"], SAMPLES["completions"], strict=True)
    ]
    for columns, texts in ((PLAIN, plain), (CHAT, rendered)):
        nll, tokens = nll_by_hand(tiny, texts)
        scores = load("completion_perplexity").compute(**columns, **tiny, batch_size=batch_size)
        assert scores["nll"] == pytest.approx(nll, abs=1e-5)
        assert scores["perplexity"] == pytest.approx(math.exp(nll), rel=1e-5)
        assert [scores[key] for key in ("tokens", "n", "truncated", "unscored")] == [tokens, 4, 0, 0]


@pytest.mark.parametrize("columns", [PLAIN, CHAT], ids=["plain", "chat"])
def test_perplexity_is_the_loss_of_sft_trainer(columns, load, tiny, tmp_path) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    data = Dataset.from_dict({"prompt": columns["prompts"], "completion": columns["completions"]})
    for max_length in (None, 6):
        scores = load("completion_perplexity").compute(**columns, **tiny, max_length=max_length)
        config = {"per_device_eval_batch_size": 4, "use_cpu": True, "bf16": False, "report_to": "none"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            args = SFTConfig(str(tmp_path), max_length=max_length, **config)
            trainer = SFTTrainer(
                tiny["model"], args, train_dataset=data, eval_dataset=data, processing_class=tiny["tokenizer"]
            )
            loss = trainer.evaluate()["eval_loss"]
        assert scores["nll"] == pytest.approx(loss, abs=1e-5)


def test_perplexity_counts_what_is_cut(load, tiny) -> None:
    metric = load("completion_perplexity")
    scores = metric.compute(**PLAIN, **tiny, max_length=3)
    # sequences of 6, 5, 8 and 7 tokens after prompts of 3, 2, 3 and 3: one token of one completion is left
    assert [scores[key] for key in ("tokens", "n", "truncated", "unscored")] == [1, 4, 4, 3]
    with pytest.raises(ValueError, match="no completion token is left to count in 4 samples"):
        metric.compute(**PLAIN, **tiny, max_length=2)
    with_eos, without = metric.compute(**PLAIN, **tiny), metric.compute(**PLAIN, **tiny, add_eos=False)
    assert with_eos["tokens"] == without["tokens"] + 4


def test_perplexity_leaves_model_and_generators_alone(load, tiny) -> None:
    model, metric, grads = tiny["model"].eval(), load("completion_perplexity"), []
    expected = metric.compute(**PLAIN, **tiny)
    model.train()
    model.lm_head.eval()
    hook = model.register_forward_hook(lambda *args: grads.append(torch.is_grad_enabled()))
    modes = [module.training for module in model.modules()]
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert metric.compute(**PLAIN, **tiny) == pytest.approx(expected)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert before == after
    assert [module.training for module in model.modules()] == modes
    assert grads == [False]
    hook.remove()
    model.eval()


def test_perplexity_loads_by_path(load, tiny, tmp_path, monkeypatch) -> None:
    metric, path = load("completion_perplexity"), str(tmp_path)
    tiny["model"].save_pretrained(path)
    tiny["tokenizer"].save_pretrained(path)
    before = torch.get_rng_state()
    scores = metric.compute(**CHAT, model=path, device="cpu", dtype="float32")
    assert torch.equal(before, torch.get_rng_state())
    assert scores == pytest.approx(metric.compute(**CHAT, **tiny))
    # a checkpoint that lacks weights makes transformers draw them
    draw = "transformers.AutoModelForCausalLM.from_pretrained"
    monkeypatch.setattr(draw, lambda *args, **kwargs: torch.rand(1) is not None and tiny["model"])
    metric.compute(**CHAT, model=path, device="cpu")
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(ValueError, match="device and dtype are for a model that is loaded by name"):
        metric.compute(**CHAT, **tiny, device="cpu")


def test_perplexity_refusals(load, tiny) -> None:
    metric = load("completion_perplexity")
    for empty in ("", "  ", [], [{"role": "assistant", "content": " "}]):
        prompts = ["a", "b" if isinstance(empty, str) else [{"role": "user", "content": "b"}]]
        with pytest.raises(ValueError, match=re.escape("completions[1] is empty")):
            metric.compute(prompts=prompts, completions=["a", empty], **tiny)
    with pytest.raises(TypeError, match=re.escape("prompts[0] and completions[0] must both")):
        metric.compute(prompts=["a"], completions=CHAT["completions"][:1], **tiny)
    with pytest.raises(TypeError, match="model is needed"):
        metric.compute(**PLAIN)
    with pytest.raises(TypeError, match="tokenizer is needed"):
        metric.compute(**PLAIN, model=tiny["model"])
    for bad in ({"batch_size": 0}, {"max_length": 0}, {"batch_size": 1.5}):
        with pytest.raises(ValueError, match="is not a whole number of at least 1"):
            metric.compute(**PLAIN, **tiny, **bad)


def test_completion_starts_where_the_sequences_part() -> None:
    samples = arithmetic("completion_perplexity")

    class Merging:
        """Reads two letters at a time, so that a prompt of odd length merges with the completion."""

        eos_token = None

        def __call__(self, text: str) -> dict:
            return {"input_ids": [text[i : i + 2] for i in range(0, len(text), 2)]}

    assert samples.tokenize_sample("abc", "defg", Merging()) == (["ab", "cd", "ef", "g"], 1, False)
    empty_prompt = samples.tokenize_sample("", "abcd", Merging())
    assert (empty_prompt.start, empty_prompt.scored) == (0, 1)  # nothing comes before the first token


# ---------------------------------------------------------------------------------------------- by name


def test_load_metric_by_name() -> None:
    from ee_trl.evaluation.load import list_metrics, load_metric, metrics_dir

    assert list_metrics() == METRICS
    assert load_metric("distinct").compute(predictions=["a b", "a"]) == {"dist1": 200 / 3, "dist2": 100.0, "n": 2}
    assert (metrics_dir() / "distinct" / "README.md").is_file()
    with pytest.raises(EmpathyError, match="unknown metric 'distnct'; valid: .*Did you mean 'distinct'"):
        load_metric("distnct")


def test_load_metric_where_not_installed(monkeypatch) -> None:
    import ee_trl

    def missing(name: str, package: str) -> None:
        raise ModuleNotFoundError("No module named 'ee_trl.evaluation'", name="ee_trl.evaluation")

    monkeypatch.delitem(vars(ee_trl), "list_metrics", raising=False)
    monkeypatch.setattr(ee_trl.importlib, "import_module", missing)
    with pytest.raises(ImportError, match="pip install -e"):
        _ = ee_trl.list_metrics
