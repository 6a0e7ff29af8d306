"""Rows for TRL: as the chat template takes them, refused by row, and without a thought in what is learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from ee_trl import build_tiny_causal_lm
from ee_trl.errors import FormatError
from ee_trl.training.data import in_template


STRICT = """{%- for m in messages -%}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('roles must alternate') }}{%- endif -%}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}
{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"""
EMPTY = "{{ '<think>\\n\\n</think>\\n\\n' }}"
THOUGHT = (
    "{%- for m in messages -%}{{ '<|' + m.role + '|>' }}{%- if m.role == 'assistant' and loop.last -%}"
    f"{EMPTY}{{%- endif -%}}{{{{ m.content + '<|end|>' }}}}{{%- endfor -%}}{{%- if add_generation_prompt -%}}"
    f"{{{{ '<|assistant|>' }}}}{{%- if enable_thinking is defined and not enable_thinking -%}}{EMPTY}{{%- endif -%}}"
    "{%- endif -%}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_causal_lm(tmp_path_factory.mktemp("tiny"), vocab_size=500, hidden_size=32, num_hidden_layers=1)


def rows(*talks: str) -> Dataset:
    """`"uua"`: two turns of the speaker, then the reply; each turn's text is its place."""
    roles = {"u": "user", "a": "assistant", "s": "system"}
    sides = [[{"role": roles[r], "content": f"text {i}"} for i, r in enumerate(talk)] for talk in talks]
    return Dataset.from_dict({"prompt": [s[:-1] for s in sides], "completion": [s[-1:] for s in sides]})


def test_rows_are_joined_where_the_template_needs_it_or_on_request(folder, caplog) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    data = rows("ua", "uua", "uaa")
    assert in_template(data, tokenizer, "the data") is data
    asked = in_template(data, tokenizer, "the data", join=True)
    tokenizer.chat_template = STRICT
    needed = in_template(data, tokenizer, "the data")
    assert asked.to_list() == needed.to_list()
    assert needed[0] == data[0]
    assert needed[1]["prompt"] == [{"role": "user", "content": "text 0\ntext 1"}]
    assert needed[2]["completion"] == [{"role": "assistant", "content": "text 1\ntext 2"}]
    assert "2 of 3 rows of the data have neighbouring turns of one side: they are joined" in caplog.text
    with pytest.raises(FormatError, match=r"row 1 of the data.*roles must alternate\. Leave out its system message"):
        in_template(rows("ua", "sua"), tokenizer, "the data")


def test_a_model_does_not_learn_the_templates_empty_thought(folder: Path, tmp_path: Path) -> None:
    from trl import SFTConfig, SFTTrainer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = THOUGHT
    args = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    trainer = SFTTrainer(
        str(folder), args, train_dataset=in_template(rows("ua"), tokenizer, "it"), processing_class=tokenizer
    )
    [row] = trainer.train_dataset
    learnt = [i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
    assert tokenizer.decode(learnt) == "text 1<|end|>"
    assert "<think>" in tokenizer.decode(row["input_ids"])
