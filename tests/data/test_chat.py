"""Conversations in chat templates: joined where the template needs it, refused by name, and thoughts closed."""

from __future__ import annotations

from typing import Any

import pytest
from random_judges import RUBRIC, make_tokenizer

from ee_trl.data.chat import chat_ids, fitted, joined, render, template_options
from ee_trl.errors import FormatError
from ee_trl.scoring.judge.prompt import JudgePrompt


STRICT = """{%- if messages[0].role == 'system' %}{{ raise_exception('no system message, please') }}{% endif -%}
{%- for m in messages -%}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('user and assistant take turns') }}
{%- endif -%}
{{ '[' + m.role + ']' + m.content + '[end]' }}
{%- endfor -%}{%- if add_generation_prompt -%}
{%- if messages[-1].role != 'user' -%}{{ raise_exception('the user must speak last') }}{%- endif -%}
{{ '[assistant]' }}{%- endif -%}"""
SWITCH = (  # as Qwen3: a reply begins with an empty thought, a prompt only where thinking is off
    "{%- for m in messages -%}{{ '<' + m.role + '>' }}{%- if m.role == 'assistant' and loop.last -%}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif -%}{{ m.content + '<|im_end|>' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<assistant>' }}{%- if enable_thinking is defined and not enable_thinking -%}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif -%}{%- endif -%}"
)


def thinks(opening: str) -> str:
    """A template that opens a thought whatever `enable_thinking` says."""
    return (
        "{%- for m in messages -%}{{ '[' + m.role + '] ' + m.content + '\\n' }}{%- endfor -%}"
        f"{{%- if add_generation_prompt -%}}{{{{ '[assistant] {opening}' }}}}{{%- endif -%}}"
    )


def talk(*texts: str) -> list[dict[str, Any]]:
    """`"u:..."` is the speaker's turn, `"a:..."` the listener's, `"s:..."` the system message."""
    roles = {"u": "user", "a": "assistant", "s": "system"}
    return [{"role": roles[text[0]], "content": text[2:]} for text in texts]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer("chatml")


def with_template(tokenizer: Any, template: str) -> Any:
    tokenizer.chat_template = template
    return tokenizer


def test_neighbouring_turns_are_joined_only_where_the_template_needs_it(tokenizer) -> None:
    turns = talk("u:I lost my job.", "u:And my flat.", "a:So sorry.", "a:Who is with you?", "u:My son.")
    together = talk("u:I lost my job.\nAnd my flat.", "a:So sorry.\nWho is with you?", "u:My son.")
    assert joined(turns) == together
    with_template(tokenizer, "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}")
    assert render(tokenizer, turns).count("[user]") == 3
    with_template(tokenizer, STRICT)
    assert render(tokenizer, turns) == render(tokenizer, together)
    assert render(tokenizer, turns, prompt=True) == render(tokenizer, together) + "[assistant]"
    assert chat_ids(tokenizer, together) == tokenizer.apply_chat_template(together)["input_ids"]


def test_a_reply_after_the_listeners_own_turn_goes_on_there(tokenizer) -> None:
    prompt, completion = talk("u:Hello.", "a:So sorry."), talk("a:Who is with you?")
    with_template(tokenizer, STRICT)
    assert render(tokenizer, prompt, prompt=True) == "[user]Hello.[end][assistant]So sorry.\n"
    expected = talk("u:Hello."), talk("a:So sorry.\nWho is with you?")
    assert fitted(tokenizer, prompt, completion) == expected
    with_template(tokenizer, thinks(""))
    assert fitted(tokenizer, prompt, completion) == (prompt, completion)
    assert fitted(tokenizer, prompt, completion, join=True) == expected


@pytest.mark.parametrize(
    ("turns", "said", "remedy"),
    [
        (talk("a:Hi there!", "u:I lost my job."), "take turns", "the listener's turns before the speaker's first"),
        (talk("s:Be kind.", "u:Hello."), "no system message, please", "its system message"),
        (talk("s:Be kind.", "a:Hi!", "u:Hello."), "no system", "its system message and the listener's turns before"),
        (talk("u:Hello.", "a:Hi.", "s:Be kind.", "u:Hello."), "take turns", "Leave out its system message"),
    ],
)
def test_what_a_template_refuses_is_named_with_its_words_and_a_remedy(turns, said, remedy, tokenizer) -> None:
    with_template(tokenizer, STRICT)
    with pytest.raises(FormatError, match="the chat template refuses row 7, which begins") as refused:
        render(tokenizer, turns, prompt=True, where="row 7")
    assert said in str(refused.value)
    assert remedy in str(refused.value)
    with pytest.raises(FormatError, match="row 3"):
        fitted(tokenizer, turns, talk("a:I see."), "row 3")


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("<think>\\n", "\n</think>\n\n"),
        ("<think>", "\n\n</think>\n\n"),
        ("<think>Okay, ", "\n\n</think>\n\n"),
        ("[THINK]", "\n\n[/THINK]\n\n"),
        ("<seed:think>", "\n\n</seed:think>\n\n"),
        ("<|START_THINKING|>", "\n\n<|END_THINKING|>\n\n"),
        ("<|begin_of_thought|>\\n", "\n<|end_of_thought|>\n\n"),
        ("\u25c1think\u25b7", "\n\n\u25c1/think\u25b7\n\n"),
        ("<think>\\n\\n</think>\\n\\n", ""),
        ("<reasoning>", "\n\n</reasoning>\n\n"),
        ("", ""),
    ],
)
def test_a_thought_that_the_template_opens_is_closed(opening: str, closing: str, tokenizer) -> None:
    with_template(tokenizer, thinks(opening))
    turns = talk("u:I am stuck in <think> here.")  # the speaker's own words are left alone
    assert render(tokenizer, turns, prompt=True).endswith("[assistant] " + opening.replace("\\n", "\n") + closing)
    assert render(tokenizer, turns) == "[user] I am stuck in <think> here.\n"
    asked = tokenizer.decode(JudgePrompt(tokenizer, RUBRIC).head)
    assert asked == f"\n[assistant] {opening}".replace("\\n", "\n") + closing + "Evaluation Form (scores ONLY):\n"


def test_a_thought_that_cannot_be_closed_is_refused_by_name(tokenizer) -> None:
    with_template(tokenizer, thinks("<|deep_reasoning_7|>"))
    with pytest.raises(FormatError, match=r"opens '<\|deep_reasoning_7\|>' before each reply"):
        render(tokenizer, talk("u:Hello."), prompt=True)


def test_an_empty_thought_of_the_template_is_no_part_of_the_reply(tokenizer) -> None:
    from ee_trl.evaluation.metrics.completion_perplexity import tokenize_sample

    prompt, completion = talk("u:Hello."), talk("a:I see.")
    with_template(tokenizer, SWITCH)
    sample = tokenize_sample(prompt, completion, tokenizer)
    assert tokenizer.decode(sample.ids[sample.start :]) == "I see.<|im_end|>"
    assert sample.ids[: sample.start] == chat_ids(tokenizer, prompt, prompt=True)
    assert template_options(tokenizer) == {"enable_thinking": False}
    assert template_options(with_template(tokenizer, thinks("<think>"))) == {}
