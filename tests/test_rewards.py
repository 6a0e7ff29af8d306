"""The scorers as rewards: their numbers, and a real GRPOTrainer that trains on them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import WordScorer
from datasets import Dataset
from transformers import AutoTokenizer

from ee_trl import Dialogue, build_tiny_causal_lm, load_sample, load_scorer
from ee_trl.data.samples import all_dialogues
from ee_trl.errors import EmpathyError, FormatError
from ee_trl.rewards import EmpathyReward, rationality_reward, sensibility_reward
from ee_trl.scoring.base import BatchedScorer, ScoredBatch


PROMPT = [{"role": "user", "content": "My dog died."}]
REPLY = [{"role": "assistant", "content": "I am so sorry. How old was he?"}]


def test_a_reward_is_the_score_over_ten() -> None:
    dialogue = Dialogue(("My dog died.",), "I am so sorry. How old was he?", ("user",))
    [[s, r]] = load_scorer().score([dialogue]).tolist()
    assert sensibility_reward([PROMPT], [REPLY]) == [pytest.approx(s / 10)]
    assert rationality_reward([PROMPT], [REPLY]) == [pytest.approx(r / 10)]
    plain = sensibility_reward(["My dog died."], ["I am so sorry. How old was he?"], emotion=["sad"])
    assert plain == sensibility_reward(
        [PROMPT], [REPLY]
    )  # texts are read like messages, other columns are passed over


def test_axes_can_be_weighted() -> None:
    reward = EmpathyReward(WordScorer(), {"sensibility": 1.0, "rationality": -0.5})
    assert reward(["hello"], ["so sorry ?"]) == [pytest.approx((3 - 0.5 * 5) / 1.5 / 10)]
    for weight in (0.5, 1, 30):  # only the ratio counts: the reward stays within 0 and 1
        both = EmpathyReward(WordScorer(), {"sensibility": weight, "rationality": weight})
        assert both(["hello"], ["so sorry ?"]) == [pytest.approx((3 + 5) / 2 / 10)]


@pytest.mark.parametrize(
    ("axis", "name"),
    [
        ("rationality", "rationality"),
        ({"rationality": 3}, "rationality"),
        ({"sensibility": 0.7, "rationality": 0.3}, "sensibility_0.7_rationality_0.3"),
        ({"rationality": -1, "sensibility": 2}, "sensibility_0.6667_rationality_-0.3333"),
    ],
)
def test_rewards_are_called_by_what_they_weigh(axis, name) -> None:
    assert EmpathyReward(WordScorer(), axis).__name__ == f"{name}_reward"


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ("kindness", "unknown axis 'kindness'; valid: sensibility, rationality"),
        ({"kindness": 1}, "unknown axis 'kindness'"),
        (
            {},
            "axis {} gives no axis a weight; valid: sensibility, rationality, combined, or weights such as {'sens",
        ),
        ({"sensibility": 0}, "gives no axis a weight"),
        ({"sensibility": "x"}, "the weight of sensibility, 'x', is not a number"),
        ({"sensibility": float("nan")}, "the weight of sensibility, nan, is not a number"),
        (["sensibility"], "axis ['sensibility'] is neither a name nor weights"),
        (None, "axis None is neither"),
    ],
)
def test_axes_that_weigh_nothing_are_refused(axis, message) -> None:
    with pytest.raises(EmpathyError, match=re.escape(message)):
        EmpathyReward(WordScorer(), axis)


class Flagging:
    """Scores (8, 2) with an appropriateness of 0.5, and flags what is hostile."""

    fingerprint, flags, details = "flagging-1", ("hostile",), ("appropriateness",)

    def score_batches(self, dialogues: Sequence[Dialogue]) -> Iterator[ScoredBatch]:
        flags = ["hostile" if dialogue.response == "hostile" else None for dialogue in dialogues]
        details, scores = {"appropriateness": np.full(len(flags), 0.5)}, np.tile([8.0, 2.0], (len(flags), 1))
        yield ScoredBatch(range(len(flags)), scores, details=details, flags=flags)

    score = BatchedScorer.score


@pytest.mark.parametrize(
    ("axis", "fine", "lowest"),
    [("sensibility", 0.8, 0), ("combined", 0.25, 0), ({"sensibility": 1, "rationality": -1}, 0.3, -0.5)],
)
def test_flagged_and_empty_replies_get_the_lowest_value(axis: Any, fine: float, lowest: float) -> None:
    reward = EmpathyReward(Flagging(), axis)
    assert reward(["Hi."] * 3, ["fine", "hostile", " "]) == [pytest.approx(fine), lowest, lowest]
    assert EmpathyReward(Flagging(), axis, failed=-3)(["Hi."] * 2, ["hostile", ""]) == [-3, -3]


def test_what_is_not_english_gets_the_lowest_value_scored_or_not() -> None:
    for other_language in ("flag", "unscored"):
        reward = EmpathyReward("linear", "combined", other_language=other_language)
        assert reward.__name__ == "combined_reward"
        assert reward(["My dog died."], ["Lo siento mucho por tu perro."]) == [0]


PLATITUDE = (
    "Everything happens for a reason, and time heals all wounds. Every cloud has a silver lining, so keep your chin "
    "up, stay positive and believe in yourself. What does not kill you makes you stronger. Tomorrow is another day. "
    "Life goes on, and in the end everything will be just fine."
)


class Once:
    """The default scorer, asked once for each list of replies, whatever the reward makes of the scores."""

    def __init__(self) -> None:
        self.scorer: Any = load_scorer()
        self.known: dict[tuple[Dialogue, ...], list[ScoredBatch]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scorer, name)

    def score_batches(self, dialogues: Sequence[Dialogue]) -> Iterator[ScoredBatch]:
        asked = tuple(dialogues)
        self.known[asked] = self.known.get(asked) or list(self.scorer.score_batches(dialogues))
        return iter(self.known[asked])

    score = BatchedScorer.score


@pytest.fixture(scope="module")
def once() -> Once:
    return Once()


@pytest.mark.parametrize("axis", ["sensibility", "combined"])
@pytest.mark.parametrize("kind", ["random", "parrot", "sorry", "platitude"])
def test_cheap_replies_earn_less_than_the_references(kind: str, axis: str, once: Once, tmp_path: Path) -> None:
    sample = load_sample("train")
    rows = all_dialogues(sample.select(range(0, len(sample), 3)))
    prompts, references = ([row[side] for row in rows] for side in ("prompt", "completion"))
    assert len(prompts) >= 50
    if kind == "random":  # what an untrained model writes
        build_tiny_causal_lm(tmp_path)
        tokenizer, rng = AutoTokenizer.from_pretrained(tmp_path), np.random.default_rng(0)
        replies = [tokenizer.decode(rng.integers(len(tokenizer), size=20), skip_special_tokens=True) for _ in prompts]
    else:
        given = {"sorry": "I'm so sorry.", "platitude": PLATITUDE}
        replies = [given.get(kind) or str(prompt[-1]["content"]) for prompt in prompts]
    reward = EmpathyReward(once, axis)
    cheap, true = (np.array(reward(prompts, side), float) for side in (replies, references))
    assert np.nanmean(cheap) < np.nanmean(true)


def test_contents_as_lists_of_parts_are_read_as_their_text() -> None:
    parts = [{"type": "text", "text": "I am so sorry."}, {"type": "text", "text": "How old was he?"}]
    [wanted] = sensibility_reward([PROMPT], [REPLY])
    prompt = [{"role": "user", "content": [{"type": "text", "text": "My dog died."}]}]
    assert sensibility_reward([prompt], [[{"role": "assistant", "content": parts}]]) == [wanted]
    assert sensibility_reward([PROMPT], [[{"role": "assistant", "content": None}]]) == [0.0]  # a call of a tool
    for content in ([*parts, {"type": "image"}], [{"type": "text"}], 5):
        with pytest.raises(FormatError, match="a list of messages of text alone"):
            sensibility_reward([PROMPT], [[{"role": "assistant", "content": content}]])


def test_prompts_and_completions_go_together() -> None:
    with pytest.raises(FormatError, match="1 prompts and 2 completions do not go together"):
        sensibility_reward([PROMPT], [REPLY, REPLY])


def test_empty_and_unscored_completions() -> None:
    class Picky:
        fingerprint = "picky"

        def score(self, dialogues):
            assert all(d.response.strip() for d in dialogues)
            return np.array([[np.nan, np.nan] if "?" in d.response else [5.0, 5.0] for d in dialogues])

    reward = EmpathyReward(Picky(), failed=-2.0)
    assert reward(["a"] * 3, ["b", "  ", "c?"]) == [0.5, -2.0, None]
    with pytest.raises(FormatError, match="a completion must be a text"):
        reward(["a"], [5])


@pytest.mark.parametrize(
    ("axis", "lowest"),
    [
        ("sensibility", 0.0),
        ({"sensibility": -1}, -1.0),
        ({"sensibility": 1, "rationality": -0.5}, -1 / 3),
        ({"sensibility": -2, "rationality": -1}, -1.0),
    ],
)
def test_silence_gets_the_lowest_reward_of_the_range(axis, lowest) -> None:
    class Worst:
        fingerprint = "worst"

        def score(self, dialogues):  # high where it is subtracted, low where it is added
            return np.array([[10.0 * (weight < 0) for weight in reward.weights]] * len(dialogues))

    reward = EmpathyReward(Worst(), axis)
    silent, worst = reward(["a", "a"], ["", "b"])
    assert silent == worst == pytest.approx(lowest)


def test_grpo_trainer_trains_on_it(tmp_path) -> None:
    from trl import GRPOConfig, GRPOTrainer

    base = build_tiny_causal_lm(tmp_path / "base", hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    data = all_dialogues(load_sample("train").select(range(8)))
    prompts = Dataset.from_dict({"prompt": list(data["prompt"])[:8]})
    options = {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    options |= {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 8, "max_steps": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = GRPOConfig(str(tmp_path / "out"), logging_steps=1, learning_rate=1e-2, **options)
        trainer = GRPOTrainer(str(base), reward_funcs=[sensibility_reward, EmpathyReward("linear", "rationality")],
                              args=args, train_dataset=prompts)  # fmt: skip
        before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        trainer.train()
    logged = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert len(logged) == 3
    for entry in logged:
        both = [entry[f"rewards/{axis}_reward/mean"] for axis in ("sensibility", "rationality")]
        assert all(0 <= value <= 1 for value in both)
        assert entry["reward"] == pytest.approx(sum(both), abs=1e-5)
    assert any(entry["reward_std"] > 0 for entry in logged)
    assert any(not (before[name] == value).all() for name, value in trainer.model.state_dict().items())
