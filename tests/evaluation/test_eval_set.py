"""The dialogues of an evaluation, from any format, and their conversations."""

from __future__ import annotations

import pytest
from datasets import Dataset, DatasetDict, IterableDatasetDict

from ee_trl import load_sample
from ee_trl.errors import FormatError
from ee_trl.evaluation import read_eval_set


def test_eval_sets_come_from_any_format(tmp_path) -> None:
    rows = [{"context": ["hi", "hello", "i won"], "response": "great !", "emotion": "proud"},
            {"context": ["it broke"], "response": "", "emotion": "sad"}]  # fmt: skip
    Dataset.from_list(rows).to_parquet(tmp_path / "set.parquet")
    found = read_eval_set(str(tmp_path / "set.parquet"))
    assert (len(found), found.emotions, found.left_out) == (1, ("proud",), {"empty_response": 1})
    assert found.prompts[0][-1] == {"role": "user", "content": "i won"}
    raw = [
        {"conv_id": "c", "utterance_idx": i + 1, "speaker_idx": i % 2, "utterance": text, "context": "joyful"}
        for i, text in enumerate(["i won", "oh", "yes", "great"])
    ]
    spoken = read_eval_set(Dataset.from_list(raw))
    assert (spoken.references, spoken.emotions) == (["oh", "great"], ("joyful", "joyful"))
    shuffled = Dataset.from_list([raw[i] for i in (3, 0, 2, 1)]).to_iterable_dataset()
    assert read_eval_set(shuffled).dialogues == spoken.dialogues
    with pytest.raises(FormatError, match="no dialogue with a reply"):
        read_eval_set(Dataset.from_list(rows[1:]))


def test_a_split_is_chosen_whether_in_memory_or_on_the_disk(tmp_path) -> None:
    train, test = load_sample("train").select(range(3)), load_sample("test").select(range(2))
    both = DatasetDict(train=train, test=test)
    both.save_to_disk(tmp_path / "both")
    streams = IterableDatasetDict({name: part.to_iterable_dataset() for name, part in both.items()})
    for source in (both, tmp_path / "both", streams):
        for split in both:
            assert read_eval_set(source, split=split).dialogues == read_eval_set(both[split]).dialogues
        with pytest.raises(FormatError, match=r"several splits: train, test; name one \(--split\)"):
            read_eval_set(source)
    assert read_eval_set(DatasetDict(test=test)).dialogues == read_eval_set(test).dialogues
    with pytest.raises(FormatError, match="unknown split 'tets'; valid: train, test. Did you mean 'test'?"):
        read_eval_set(both, split="tets")
    with pytest.raises(FormatError, match="has no split 'other'; leave the split out"):
        read_eval_set(Dataset.from_dict({"context": [["a"]], "response": ["b"]}), split="other")
    with pytest.raises(FormatError, match="list is not a data set"):
        read_eval_set([{"context": ["a"], "response": "b"}])


def test_a_conversation_is_told_by_its_turns_in_any_order() -> None:
    def rows(*talks: list[str]) -> Dataset:
        return Dataset.from_list(
            [{"context": talk[:end], "response": talk[end]} for talk in talks for end in range(1, len(talk), 2)]
        )

    two = rows(["hi", "hello", "i won", "great"], ["hi", "hello", "it broke", "oh", "yes", "no"])
    assert read_eval_set(two).conversations == [0, 0, 2, 2, 2]  # openings that two share do not join them
    some = rows(["a", "b", "c", "d", "e", "f"], ["g", "h", "i", "j"])
    assert read_eval_set(some.select([0, 2, 3, 4])).conversations == [0, 0, 2, 2]  # a turn between is not in the set
    mixed = read_eval_set(some.select([4, 2, 0, 3, 1])).conversations
    assert len(set(mixed)) == 2
    assert mixed[0] == mixed[3]
    assert mixed[1] == mixed[2] == mixed[4]
    assert read_eval_set(rows(["a", "b"], ["a", "c"])).conversations == [0, 1]
