"""`ServerScorer` against llama.cpp's own server with SmolLM2: a local judge's scores, no control tokens, no losses."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_server
import numpy as np
import pytest
from datasets import Dataset
from llama_server import LlamaServer

from ee_trl import CausalLMScorer, Dialogue, EmpathyDataSelector, ServerScorer, load_sample
from ee_trl.axes import AXES
from ee_trl.data.samples import iter_samples
from ee_trl.scoring.judge.prompt import neutralised, whole_prompt
from ee_trl.scoring.judge.rubric import ANSWER_HEADER, SLOTS, Rubric, render_form
from ee_trl.scoring.judge.ways import Schema


pytestmark = [pytest.mark.slow, pytest.mark.real_model, pytest.mark.filterwarnings("ignore")]

SHORT = Rubric(
    "short",
    "Rate the listener's last reply from 0 to 10. Sensibility is emotional grounding, rationality cognitive coherence."
    f"\n\nAnswer with this form alone:\n\n{render_form(7, 3)}",
)
FREE = Rubric("free", "What do you think of the listener's last reply?")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights in float32, for both engines."""
    return llama_server.dequantized(llama_server.gguf_or_skip(), tmp_path_factory.mktemp("model") / "smollm2.gguf")


@pytest.fixture(scope="module")
def server(weights: Path) -> Iterator[LlamaServer]:
    with llama_server.serving(weights, context=2048) as found:
        yield found


@pytest.fixture(scope="module")
def judge(weights: Path) -> CausalLMScorer:
    return CausalLMScorer(weights, rubric=SHORT)


@pytest.fixture(scope="module")
def dialogues() -> list[Dialogue]:
    samples = [s.dialogue for batch in iter_samples(load_sample("test")) for s in batch.samples]
    return [d for d in samples if d is not None][:8]


def scorer_of(server: LlamaServer, **options: Any) -> ServerScorer:
    return ServerScorer("smollm2", **{"base_url": server.base_url, "rubric": SHORT, "concurrency": 2, **options})


def test_it_reads_the_tokens_that_a_local_judge_reads(
    server: LlamaServer, judge: CausalLMScorer, dialogues: list[Dialogue]
) -> None:
    for dialogue in dialogues:
        for axis, chain in zip(AXES, judge.prompt.chains, strict=True):
            written = {"role": "assistant", "content": f"{ANSWER_HEADER}\n{SLOTS[axis]}"}
            asked = {"role": "user", "content": whole_prompt(SHORT, dialogue)}
            text = server.post("/apply-template", {"messages": [asked, written]})["prompt"]
            ids = server.post("/tokenize", {"content": f"{text} 7", "add_special": True, "parse_special": True})
            assert ids["tokens"] == [*judge.prompt.ids(judge.prompt.turns(dialogue), chain.slot), chain.first[7]]


def test_its_scores_are_a_local_judges(server: LlamaServer, judge: CausalLMScorer, dialogues: list[Dialogue]) -> None:
    scorer = scorer_of(server)
    assert scorer.fingerprint.endswith("/logprobs:20/slots")
    assert f"/smollm2.gguf@127.0.0.1:{server.port}/" in scorer.fingerprint
    found, details = scorer.score_with_details(dialogues[:6])
    local, known = judge.score_with_details(dialogues[:6])
    np.testing.assert_allclose(found, local, atol=0.03)
    for name in ("sensibility_mass", "rationality_mass", "sensibility_std"):
        np.testing.assert_allclose(details[name], known[name], atol=0.03)


def test_a_model_that_chats_is_held_to_the_form(server: LlamaServer, dialogues: list[Dialogue]) -> None:
    scorer = scorer_of(server, rubric=FREE, logprobs=False, extra_body={"chat_template_kwargs": {}}, max_tokens=48)
    assert scorer.fingerprint.rsplit("/", 3)[1:2] == ["grammar"]
    scores = scorer.score(dialogues[:2])
    assert set(scores.ravel()) <= set(range(11))

    async def ask(text: str, written: str, fields: dict[str, Any]) -> tuple[Any, None]:
        body = {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 48, **fields}
        return server.post("/v1/chat/completions", body), None

    answer = asyncio.run(Schema().answer(ask, whole_prompt(FREE, dialogues[0]), 0, 0))
    assert answer.reason is None
    assert set(answer.mode) <= set(range(11))


SHAPES = [
    *("[|user|]", "[|endofturn|]", "<seed:eos>", "<seed:think>", "]~b]", "]~!b[", "[e~[", "[THINK]", "[/THINK]"),
    *("<_user>", "<_end>", "[unused9]", "[unused10]", "<role>HUMAN</role>", "<|role_end|>", "<｜hy_User｜>"),
    *("[gMASK]<sop>", "<start_of_turn>", "<|turn>", "<turn|>", "<<SYS>>", "[AVAILABLE_TOOLS]", "<0x0A>", "</s>"),
]


def test_no_text_becomes_a_control_token(server: LlamaServer) -> None:
    def ids(text: str) -> set[int]:
        return set(server.post("/tokenize", {"content": text, "parse_special": True})["tokens"])

    special = [server.post("/detokenize", {"tokens": [i]})["content"] for i in range(17)]
    for text in (*special, *SHAPES):
        parts = (text, f"a{text}b", text * 2, text.upper(), f"<{text}>", f"{text[0]}{text}{text[1:]}", f"[{text}|")
        assert all(ids(part) & set(range(17)) for part in parts[:3]) or text in SHAPES, "it is one unless broken up"
        for part in parts:
            assert not ids(neutralised(part)) & set(range(17)), part


def test_a_dialogue_beyond_its_context_is_refused_alone(server: LlamaServer, dialogues: list[Dialogue]) -> None:
    long = Dialogue(("word " * 1200,), "I see.", ("user",))
    [first, second] = [
        reason
        for batch in scorer_of(server, concurrency=1).score_batches([long, dialogues[0]])
        for reason in batch.reasons or ()
    ]
    assert (first, second) == ("server_refused", None)


def test_a_server_that_is_killed_and_loads_again_loses_nothing(
    weights: Path, server: LlamaServer, dialogues: list[Dialogue], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Dataset.from_list([{"context": list(d.context), "response": d.response} for d in dialogues[:6]])
    other = LlamaServer(weights, context=2048)
    try:
        other.start()
        scorer = scorer_of(other, max_retries=0, name="one")
        selector = EmpathyDataSelector(scorer, store=tmp_path / "s.sqlite", show_progress=False, batch_rows=8)
        assert scorer.fingerprint
        asked, ask = iter(range(1000)), scorer.chat.ask

        async def killing(*request: Any) -> tuple[Any, str | None]:
            if next(asked) == 12:
                other.kill()
            return await ask(*request)

        monkeypatch.setattr(scorer.chat, "ask", killing)
        lost = selector.score(data)["score_status"][:]
        assert {"scored", "server_unavailable"} <= set(lost)
        other.start(wait=False)  # refuses, then answers 503 while it loads; the client asks again
        again = scorer_of(other, max_retries=8, name="one")
        whole = EmpathyDataSelector(again, store=tmp_path / "s.sqlite", show_progress=False).score(data)
        assert set(whole["score_status"]) == {"scored"}
    finally:
        other.kill()
    found = np.stack([whole[axis][:2] for axis in AXES], axis=1)
    np.testing.assert_allclose(found, scorer_of(server).score(dialogues[:2]), atol=0.03)
