"""Replies: those of transformers' own `generate`, stored and resumed, and shared by processes."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_candidates import base_and_adapter

from ee_trl import build_tiny_causal_lm, load_sample
from ee_trl.data.samples import all_dialogues
from ee_trl.errors import EmpathyError
from ee_trl.evaluation import evaluate_models, read_eval_set
from ee_trl.evaluation.candidates import load_candidate
from ee_trl.evaluation.generation import Decoding, StoredReplies, generate_batch, generate_replies


SHORT = Decoding(max_new_tokens=8)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return base_and_adapter(tmp_path_factory.mktemp("models"))


def test_generation_does_not_depend_on_the_batch_and_keeps_the_order(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = build_tiny_causal_lm(tmp_path, vocab_size=500, hidden_size=32, num_hidden_layers=2)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():  # an untrained model repeats itself: make its replies differ
        for weight in model.parameters():
            weight.mul_(6)
    prompts = list(all_dialogues(load_sample("test"))["prompt"])[:12]
    alone = generate_replies(model, tokenizer, prompts, max_new_tokens=8, batch_size=1)
    assert generate_replies(model, tokenizer, prompts, max_new_tokens=8, batch_size=5) == alone
    assert generate_replies(model, tokenizer, prompts[::-1], max_new_tokens=8, batch_size=5) == alone[::-1]
    assert len(set(alone)) > 3
    ids = tokenizer.apply_chat_template(prompts[0], add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        output = model.generate(**ids, max_new_tokens=8, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    expected = tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    assert alone[0] == expected


def test_batches_change_no_reply(models) -> None:
    loaded = load_candidate(models["adapter"])
    prompts = read_eval_set(limit=7).prompts
    one_by_one = generate_replies(loaded.model, loaded.tokenizer, prompts, batch_size=1, decoding=SHORT)
    assert generate_replies(loaded.model, loaded.tokenizer, prompts, batch_size=4, decoding=SHORT) == one_by_one
    assert len(set(one_by_one)) > 1
    hot = Decoding(8, temperature=1.5, seed=4)
    first = generate_replies(loaded.model, loaded.tokenizer, prompts, decoding=hot)
    assert first == generate_replies(loaded.model, loaded.tokenizer, prompts, decoding=hot)
    assert first != one_by_one


def test_greedy_is_greedy_whatever_the_generation_config_says(models) -> None:
    loaded = load_candidate(models["adapter"])
    prompts = read_eval_set(limit=4).prompts
    greedy = generate_replies(loaded.model, loaded.tokenizer, prompts, decoding=SHORT)
    sampled = generate_replies(loaded.model, loaded.tokenizer, prompts, decoding=Decoding(8, temperature=1.5))
    for name, value in (
        ("num_beams", 4),
        ("repetition_penalty", 1.5),
        ("no_repeat_ngram_size", 1),
        ("suppress_tokens", list(range(0, len(loaded.tokenizer), 2))),
        ("num_return_sequences", 2),
        ("return_dict_in_generate", True),
        ("min_p", 0.9),
    ):
        setattr(loaded.model.generation_config, name, value)
    plain = torch.tensor([loaded.tokenizer.apply_chat_template(prompts[0], add_generation_prompt=True)["input_ids"]])
    with torch.inference_mode():
        found = loaded.model.generate(plain, max_new_tokens=8, do_sample=False, pad_token_id=0).sequences[0]
    reply = loaded.tokenizer.decode(found[plain.shape[1] :], skip_special_tokens=True).strip()
    assert reply != greedy[0]  # so the config does count where it is asked
    assert generate_replies(loaded.model, loaded.tokenizer, prompts, decoding=SHORT) == greedy
    hot = Decoding(8, temperature=1.5)
    assert generate_replies(loaded.model, loaded.tokenizer, prompts, decoding=hot) == sampled


def test_a_prompt_that_is_too_long_loses_its_oldest_turns(models) -> None:
    from ee_trl.evaluation.generation import encode_prompt

    loaded = load_candidate(models["base"])
    turns = [{"role": ("user", "assistant")[i % 2], "content": f"word {i} " * 60} for i in range(9)]
    system = {"role": "system", "content": "be kind"}
    ids = encode_prompt(loaded.model, loaded.tokenizer, [system, *turns], 64)
    text = loaded.tokenizer.decode(ids)
    assert len(ids) <= loaded.model.config.max_position_embeddings - 64
    assert "be kind" in text
    assert "word 8" in text
    assert "word 0" not in text


@pytest.mark.parametrize(("ends", "cut"), [(9, [True, False, True]), ([9, 7], [False] * 3), (None, [True] * 3)])
def test_a_reply_without_an_end_is_cut_off(ends, cut) -> None:
    made = torch.tensor([[5, 5, 5, 7], [5, 9, 0, 0], [0, 7, 7, 7]])  # 0 is the padding
    model = SimpleNamespace(
        device="cpu",
        generation_config=SimpleNamespace(eos_token_id=ends),
        generate=lambda input_ids, **options: torch.cat([input_ids, made], dim=1),
    )
    tokenizer = SimpleNamespace(
        pad_token_id=0, batch_decode=lambda rows, **options: [str(row.tolist()) for row in rows]
    )
    replies = generate_batch(model, tokenizer, [[1], [1, 2], [3]], Decoding(4))
    assert replies == ["[5, 5, 5, 7]", "[5, 9, 0, 0]", "[0, 7, 7, 7]"]
    assert [reply.cut_off for reply in replies] == cut
    assert [reply.cut_off for reply in pickle.loads(pickle.dumps(replies))] == cut  # as processes send it
    assert not any(reply.cut_off for reply in generate_batch(model, tokenizer, [[1], [1, 2], [3]], Decoding(5)))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_run_that_was_stopped_goes_on_where_it_was(temperature, models, tmp_path, monkeypatch) -> None:
    from ee_trl.evaluation import generation

    loaded = load_candidate(models["adapter"])
    prompts = read_eval_set(limit=10).prompts
    prompts = [*prompts, prompts[0]]  # the same one twice
    decoding = Decoding(8, temperature)
    options = {"batch_size": 3, "decoding": decoding}
    whole = generate_replies(loaded.model, loaded.tokenizer, prompts, **options)
    assert any(reply.cut_off for reply in whole)
    real, calls = generation.generate_batch, []

    def counted(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(generation, "generate_batch", counted)
    stored = StoredReplies(tmp_path, "adapter", {"model": "x"})
    with pytest.raises(KeyboardInterrupt):
        generate_replies(loaded.model, loaded.tokenizer, prompts, **options, stored=stored)
    with stored.path.open("a", encoding="utf-8") as file:
        file.write('{"key": "half a li')  # as a kill leaves it
    again = StoredReplies(tmp_path, "adapter", {"model": "x"})
    resumed = generate_replies(loaded.model, loaded.tokenizer, prompts, **options, stored=again)
    assert resumed == whole
    assert [reply.cut_off for reply in resumed] == [reply.cut_off for reply in whole]
    assert len(calls) == 3 + 2  # two batches were there
    third = StoredReplies(tmp_path, "adapter", {"model": "x"})
    assert generate_replies(loaded.model, loaded.tokenizer, prompts, **options, stored=third) == whole
    assert len(calls) == 5
    other = StoredReplies(tmp_path, "adapter", {"model": "y"})  # nothing stale is taken for this model's
    assert other.path != stored.path
    assert other.find(["a"]) == [None]


def test_two_starts_may_keep_replies_in_one_file(tmp_path) -> None:
    first, second = (StoredReplies(tmp_path, "m", {"model": "x"}) for _ in range(2))  # neither sees a file
    first.add(["a"], ["one"])
    second.add(["b"], ["two"])
    second.add(["a"], ["one"])
    again = StoredReplies(tmp_path, "m", {"model": "x"})
    assert again.find(["a", "b", "c"]) == ["one", "two", None]
    lines = [json.loads(line) for line in again.path.read_text(encoding="utf-8").splitlines()]
    assert [line for line in lines if "made_by" in line] == lines[:1]
    with again.path.open("a", encoding="utf-8") as file:  # as version 0.1.0 left it
        file.write(json.dumps({"made_by": {}}) + "\n" + json.dumps({"key": "c", "reply": "three"}) + "\n")
    assert StoredReplies(tmp_path, "m", {"model": "x"}).find(["a", "c"]) == ["one", "three"]


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_every_process_calls_the_model_as_often_and_gets_all_replies(processes, models, monkeypatch) -> None:
    from ee_trl.evaluation import generation
    from ee_trl.online import ranks

    loaded = load_candidate(models["adapter"])
    prompts = read_eval_set(limit=7).prompts
    hot = Decoding(6, temperature=1.0)
    options = {"batch_size": 2, "decoding": hot}  # four batches
    alone = generate_replies(loaded.model, loaded.tokenizer, prompts, **options)
    real, calls, made = generation.generate_batch, [], []

    def counted(*args, **kwargs):
        calls.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(generation, "generate_batch", counted)
    for rank in range(processes):  # what the others made is known when the last one asks
        monkeypatch.setattr(ranks, "place", lambda rank=rank: (rank, processes))
        monkeypatch.setattr(ranks, "every", lambda value: [*made, made.append(value) or value])
        calls.clear()
        found = generate_replies(loaded.model, loaded.tokenizer, prompts, **options, shared=True)
        assert len(calls) == -(-4 // processes)
    assert found == alone


LAUNCHED = """
import json, sys
from pathlib import Path

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from ee_trl.evaluation import Decoding, evaluate_models, read_eval_set
from ee_trl.evaluation.candidates import load_candidate
from ee_trl.evaluation.generation import generate_replies
from ee_trl.online.ranks import place

model, folder = sys.argv[1:]
options = {"limit": 5, "decoding": Decoding(8), "batch_size": 2, "resamples": 20, "store": False, "show": False}
found = evaluate_models({"m": model}, output=folder, **options)
rank, processes = place()
loaded = load_candidate(model)
fully_shard(loaded.model, mesh=init_device_mesh("cpu", (processes,)))  # which hangs unless all call it as often
prompts = read_eval_set(limit=3).prompts
sharded = generate_replies(loaded.model, loaded.tokenizer, prompts, batch_size=1, decoding=Decoding(8), shared=True)
result = {"processes": processes, "replies": found.replies, "sharded": sharded, **found.to_dict()}
Path(folder, f"rank-{rank}.json").write_text(json.dumps(result))
"""


@pytest.mark.slow
def test_launched_processes_share_the_generation(models, tmp_path) -> None:
    script = tmp_path / "launched.py"
    script.write_text(LAUNCHED, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29617"]
    done = subprocess.run(
        [*command, str(script), str(models["adapter"]), str(tmp_path / "out")],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / "out" / f"rank-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["processes"] == 2
    alone = evaluate_models(
        {"m": str(models["adapter"])}, limit=5, decoding=SHORT, batch_size=2, resamples=20, store=False, show=False
    )
    assert first["replies"] == alone.replies
    assert first["models"]["m"]["numbers"] == pytest.approx(alone.to_dict()["models"]["m"]["numbers"])
    [stored] = (tmp_path / "out" / "replies").iterdir()
    keys = [json.loads(line).get("key") for line in stored.read_text(encoding="utf-8").splitlines()]
    assert keys[0] is None
    assert len(set(keys[1:])) == 5
    loaded = load_candidate(models["adapter"])
    prompts = read_eval_set(limit=3).prompts
    assert first["sharded"] == generate_replies(loaded.model, loaded.tokenizer, prompts, batch_size=1, decoding=SHORT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens 0 is not a whole number of at least 1"),
        ({"temperature": -1.0}, "temperature -1.0 is not valid; valid: 0 (greedy)"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"top_p": 2.0}, "top_p 2.0 is not valid; valid: a share above 0, up to 1"),
        ({"top_p": 0.0}, "top_p 0.0"),
        ({"seed": -1}, "seed -1 is not a whole number of at least 0"),
    ],
)
def test_decoding_that_generates_nothing_is_refused(options, message) -> None:
    with pytest.raises(EmpathyError, match=re.escape(message)):
        Decoding(**options)
