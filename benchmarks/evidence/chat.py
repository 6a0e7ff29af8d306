"""The regime of a chat model on two cores: a pool of scored samples, few held-out ones, measures sample by sample."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import data
import numpy as np
from datasets import Dataset, concatenate_datasets
from measures import METRICS, test_tools, train_levels
from plan import Run
from training import folder_of, slug

from ee_trl import EmpathyDataSelector, demo_model
from ee_trl.axes import QUADRANTS, quadrants
from ee_trl.evaluation.candidates import LoadedModel, Replies, load_candidate
from ee_trl.evaluation.difficulty import add_difficulty
from ee_trl.evaluation.eval_set import read_eval_set
from ee_trl.evaluation.generation import Decoding, generate_replies
from ee_trl.evaluation.measures import Evaluator, numbers_of
from ee_trl.evaluation.metrics.completion_perplexity import sample_nlls, tokenize_sample


OTHER = "epitome_reddit"
SCORERS = {"scored": "minilm", "scored_linear": "linear", "scored_encoder": "B"}
"""Folder of the scored pool -> the scorer; B, an older kind, also measures, so that row's own S and R mean nothing."""
CONVERSATIONS = 400
"""Whole conversations for the rows that weight each reply of one."""
SIZES = {"pool": 2400, "sensibility": 60, "rationality": 36, "balanced": 40, "low": 24, "other": 80, "replies": 80}
"""Samples in the pool; held-out references by the authors' quadrant, and of other corpora; dialogues replied to."""
BATCH = 20
DECODING = Decoding(max_new_tokens=32, temperature=0.7, top_p=0.9, seed=0)
TEMPLATE = (
    "{% for turn in messages %}{{ '<|im_start|>' + turn['role'] + '\\n' + turn['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""SmolLM2's, without its system prompt, which would be a third of all tokens."""
TURNS_TEMPLATE = (
    "{% for turn in messages %}{{ '<|im_start|>' + turn['role'] + '\\n' }}{% if turn['role'] == 'assistant' %}"
    "{% generation %}{{ turn['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}"
    "{{ turn['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The same, and it marks the tokens of replies."""


def prepare(work: Path, other: Sequence[str], most: int, sizes: Mapping[str, int]) -> dict[str, Any]:
    """
    Writes the pool and what the models are measured on, once.

    Args:
        work (`Path`): The folder of the runs; [`data.prepare`] has written the splits there.
        other (`Sequence[str]`): Files of dialogues of other corpora, in any format.
        most (`int`): Tokens of a dialogue with its reply; longer ones lose their oldest turns, or are left out.
        sizes (`Mapping`): See [`SIZES`].
    """
    record = work / "held_out.json"
    if record.exists():
        return json.loads(record.read_text(encoding="utf-8"))
    (work / "template.jinja").write_text(TEMPLATE, encoding="utf-8")
    draw, tokenizer = np.random.default_rng(0), base_model().tokenizer
    train = Dataset.from_parquet(str(work / "data" / "train.parquet"))
    drawn = np.sort(draw.permutation(len(train))[: sizes["pool"]])
    train.select(drawn).to_parquet(work / "pool.parquet")
    judged = data.read_split(work / "data" / "validation.parquet")
    of = quadrants([row["sensibility"] for row in judged], [row["rationality"] for row in judged])
    validation, weights = [], []
    for name in QUADRANTS:
        there = draw.permutation(np.flatnonzero(of == name))[: sizes[name]]
        validation += [judged[i] for i in np.sort(there)]
        weights += [float((of == name).sum() / len(there))] * len(there)
    test = data.read_split(work / "data" / "test.parquet")
    test = [test[i] for i in np.linspace(0, len(test) - 1, sizes["replies"]).astype(int)]
    sets = {"validation": validation, "test": test}
    for path in map(Path, other):
        pairs = _pairs(path)
        fit = [row for row in pairs if sum(map(len, (*row["context"], row["response"]))) < 4 * most]
        sets[path.stem] = [fit[i] for i in np.sort(draw.permutation(len(fit))[: sizes["other"]])]
    found: dict[str, Any] = {"weights": weights, "others": [Path(name).stem for name in other]}
    for name, rows in sets.items():
        cut, _ = data.cut_rows(rows, tokenizer, most)
        path = work / "held_out" / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        Dataset.from_list(cut).to_parquet(path)
        starts: dict[str, int] = {}
        found[name] = {"conversations": [starts.setdefault(row["context"][0], len(starts)) for row in rows]}
    found["validation"]["quadrants"] = [
        name for name in QUADRANTS for _ in range(min(sizes[name], (of == name).sum()))
    ]
    record.write_text(json.dumps(found), encoding="utf-8")
    return found


def _pairs(path: Path) -> list[dict[str, Any]]:
    """A file's dialogues; EPITOME's posts are named differently."""
    rows = Dataset.from_parquet(str(path)) if path.suffix == ".parquet" else None
    if rows is not None and "seeker_post" in rows.column_names:
        return [{"context": [row["seeker_post"]], "response": row["response_post"]} for row in rows]
    return [{"context": list(d.context), "response": d.response} for d in read_eval_set(str(path)).dialogues]


def score_pool(name: str, work: Path, most: int, encoder: str) -> Path:
    """The pool as a recipe reads it: scored by the folder's scorer; `scored_ifd` has the column `ifd` beside them."""
    folder = work / name
    path = folder / "train.parquet"
    if path.exists():
        return folder
    if name == "scored_ifd":
        scored = Dataset.from_parquet(str(score_pool("scored", work, most, encoder) / "train.parquet"))
        scored = add_difficulty(scored, base_model(), batch_size=BATCH)
    else:
        scorer: Any = SCORERS[name]
        scorer = str(data.scorer_of(scorer, encoder, work)[0]) if scorer in data.HALVES else scorer
        scored = EmpathyDataSelector(scorer, store=False).score(Dataset.from_parquet(str(work / "pool.parquet")))
        cut, _ = data.cut_rows([{**row} for row in scored], base_model().tokenizer, most)
        scored = concatenate_datasets(
            [scored.remove_columns("context"), Dataset.from_dict({"context": [row["context"] for row in cut]})], axis=1
        )
    folder.mkdir(exist_ok=True)
    scored.to_parquet(path.with_suffix(".partial"))
    path.with_suffix(".partial").rename(path)
    return folder


def conversations(work: Path, most: int) -> Dataset:
    """Conversations of the training split with several replies, of at most `most` tokens, as messages."""
    longest: dict[str, list[str]] = {}
    for row in data.read_split(work / "data" / "train.parquet"):
        turns = [*row["context"], row["response"]]
        longest[turns[0]] = max(longest.get(turns[0], []), turns, key=len)
    rows = [{"context": turns[:-1], "response": turns[-1]} for turns in longest.values() if len(turns) > 3]
    whole = [a for a, b in zip(rows, data.cut_rows(rows, base_model().tokenizer, most)[0], strict=True) if a == b]
    drawn = np.sort(np.random.default_rng(0).permutation(len(whole))[:CONVERSATIONS])
    turns = ([*whole[i]["context"], whole[i]["response"]] for i in drawn)
    sides = ("user", "assistant")
    messages = [[{"role": sides[k % 2], "content": text} for k, text in enumerate(each)] for each in turns]
    return Dataset.from_list([{"messages": each} for each in messages])


def train_by_turn(run: Run, work: Path, settings: Any, model: Any) -> None:
    """Trains on whole conversations, on their replies alone; with options, each reply has a weight of its own."""
    from trl import SFTTrainer, get_peft_config

    Path(settings.chat_template_path).write_text(TURNS_TEMPLATE, encoding="utf-8")
    rows = conversations(work, settings.max_length)
    settings.model_init_kwargs = {"dtype": model.dtype, "use_safetensors": True}
    trainer = SFTTrainer(
        model.model_name_or_path, args=settings, train_dataset=rows, peft_config=get_peft_config(model)
    )
    if run.options:
        EmpathyDataSelector("minilm", store=False).attach(trainer, ahead=False, **run.options)
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    record = Path(settings.output_dir) / "rows" / "rows.json"
    record.parent.mkdir(exist_ok=True)
    record.write_text(json.dumps({"samples": len(rows)}), encoding="utf-8")


def counted(folder: Path) -> dict[str, int]:
    """How many samples of a scored pool are in each set, and how many are flagged."""
    scored, selector = Dataset.from_parquet(str(folder / "train.parquet")), EmpathyDataSelector("linear")
    counts = selector.choose(scored, keep="sensibility").counts()
    return {"samples": len(scored), "sensibility": counts.pop("kept"), **counts}


@cache
def base_model() -> LoadedModel:
    """The demonstration's chat model, for its tokenizer and as the model before training."""
    loaded = load_candidate(str(demo_model()), dtype="bfloat16")
    loaded.tokenizer.chat_template = TEMPLATE
    return loaded


@cache
def _tools(work: Path, posts: str) -> Any:
    """Scorer B and EPITOME's classifier, and the bundled scorer's flags."""
    train_levels(Path(posts), work)
    return test_tools(work, work / "scorers" / "B", work / "epitome"), EmpathyDataSelector("minilm", store=False)


def measure(run: Run, work: Path, posts: str) -> dict[str, Any]:
    """
    A run's measures, sample by sample: the negative log-likelihood of references, and everything about its replies.

    Replies are scored by B and by EPITOME's classifier, which took no part in selecting, and flagged by the bundled
    scorer.
    """
    record = work / "measures" / f"{slug(run.name)}.json"
    if record.exists():
        return json.loads(record.read_text(encoding="utf-8"))
    loaded = base_model()
    if run.recipe != "none":
        loaded = load_candidate(str(folder_of(run.name, work)), dtype="bfloat16")
        loaded.tokenizer.chat_template = TEMPLATE
    sets = json.loads((work / "held_out.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = {"fingerprint": loaded.fingerprint, "references": {}}
    for name in ("validation", *sets["others"]):
        dialogues = read_eval_set(str(work / "held_out" / f"{name}.parquet")).dialogues
        samples = [tokenize_sample(d.prompt, d.completion, loaded.tokenizer) for d in dialogues]
        nlls = sample_nlls(samples, loaded.model, batch_size=BATCH)
        found["references"][name] = {"nll": [round(x, 4) for x in nlls], "tokens": [s.scored for s in samples]}
    test = read_eval_set(str(work / "held_out" / "test.parquet"))
    texts = generate_replies(
        loaded.model, loaded.tokenizer, test.prompts, batch_size=40, label=run.name, decoding=DECODING, show=False
    )
    tools, bundled = _tools(work, posts)
    measures = Evaluator(test, tools).measure(Replies(texts, loaded.description, loaded.fingerprint), None, METRICS)
    rows = [
        {"context": list(d.context), "response": text or "..."} for d, text in zip(test.dialogues, texts, strict=True)
    ]
    flags = bundled.score(Dataset.from_list(rows))["score_flag"]
    samples = {name: values.tolist() for one in measures.values() for name, values in one.samples.items()}
    found["replies"] = {"numbers": numbers_of(measures), **samples, "flagged": [float(bool(flag)) for flag in flags]}
    for path, text in ((record, json.dumps(found)), (work / "replies" / f"{slug(run.name)}.txt", "\n".join(texts))):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    gc.collect()
    return found
