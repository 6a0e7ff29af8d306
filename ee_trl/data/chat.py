"""Conversations in a model's chat template: one rendering for training, perplexity, replies and judges."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..display import shortened
from ..errors import FormatError


Turns = Sequence[dict[str, Any]]

NO_THINKING = {"enable_thinking": False}
"""Every template gets this; templates without a thinking mode ignore it."""

_TAG = re.compile(
    r"(?P<left>[<\[\u25c1]\|?)(?P<closes>/|end_(?:of_)?)?(?P<opens>begin_(?:of_)?|start_(?:of_)?)?"
    r"(?P<name>[\w:]*(?:think|thought|reason)\w*)[^<>\[\]\u25b7\n]{0,20}?(?P<right>\|?[>\]\u25b7])",
    re.I,
)
_CLOSABLE = re.compile(r"(?:\w+:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?)", re.I)


def joined(turns: Turns) -> list[dict[str, Any]]:
    """The conversation with neighbouring turns of one side as one turn, line by line."""
    found: list[dict[str, Any]] = []
    for turn in turns:
        texts = [found[-1]["content"], turn["content"]] if found and found[-1]["role"] == turn["role"] else []
        if texts and all(isinstance(text, str) for text in texts):
            found[-1] = {**found[-1], "content": "\n".join(texts)}
        else:
            found.append(dict(turn))
    return found


def render(
    tokenizer: Any, turns: Turns, *, prompt: bool = False, where: str = "a conversation", **options: Any
) -> str:
    """
    A conversation in the tokenizer's chat template; with `prompt`, up to where the listener's reply begins.

    Where the template refuses neighbouring turns of one side, they are joined; a reply then goes on after the
    listener's own last turn. A thought that the template opens before the reply is closed. `where` names the
    conversation in the [`FormatError`] for what the template refuses; `options` go to `apply_chat_template`.
    """
    together = joined(turns)
    for way in (turns, together):
        try:
            return _rendered(tokenizer, way, prompt, options)
        except _refusals() as error:
            refused = error
    begins = shortened(repr(turns[0]["content"]), 60) if turns else "nothing"
    raise FormatError(
        f"the chat template refuses {where}, which begins {begins}. It says: {refused}. "
        f"{_remedy(tokenizer, together, prompt, options)}"
    ) from refused


def chat_ids(tokenizer: Any, turns: Turns, **options: Any) -> list[int]:
    """The token ids of [`render`], which takes the same options."""
    text = render(tokenizer, turns, **options)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def fitted(
    tokenizer: Any, prompt: Turns, completion: Turns, where: str = "a conversation", join: bool = False
) -> tuple[Turns, Turns]:
    """
    Prompt and completion as the template takes them: as they are, or joined where it refuses that, or by `join`.

    The listener's turns right before the reply become the beginning of the completion. Raises as [`render`].
    """
    whole = [*prompt, *completion]
    if not join:
        try:
            _rendered(tokenizer, prompt, True, {})
            _rendered(tokenizer, whole, False, {})
            return prompt, completion
        except _refusals():
            pass
    together = joined(whole)
    render(tokenizer, together, where=where)
    render(tokenizer, together[:-1], prompt=True, where=where)
    return together[:-1], together[-1:]


def without_thought(text: str) -> str:
    """A generated text after its thought; nothing of a thought that does not end."""
    tags = [tag for tag in _TAG.finditer(text) if _CLOSABLE.fullmatch(tag["name"])]
    begin = max((tag.end() for tag in tags if tag["closes"]), default=0)
    end = min((tag.start() for tag in tags if tag.start() >= begin), default=len(text))
    return text[begin:end]


def template_options(tokenizer: Any) -> dict[str, Any]:
    """[`NO_THINKING`] for a template whose prompts change by it, else nothing: what TRL has to be told."""
    probe = [{"role": "user", "content": "Hello"}]
    how: dict[str, Any] = {"add_generation_prompt": True, "tokenize": False}
    try:
        plain, told = (tokenizer.apply_chat_template(probe, **how, **more) for more in ({}, NO_THINKING))
    except _refusals():
        return {}
    return {} if plain == told else NO_THINKING


def _refusals() -> tuple[type[Exception], ...]:
    from jinja2 import TemplateError

    return TemplateError, ValueError, TypeError


def _rendered(tokenizer: Any, turns: Turns, prompt: bool, options: dict[str, Any]) -> str:
    options = {"tokenize": False, **NO_THINKING, **options}
    if not prompt:
        return tokenizer.apply_chat_template(list(turns), **options)
    try:
        text = tokenizer.apply_chat_template(list(turns), add_generation_prompt=True, **options)
    except _refusals():
        if not turns or turns[-1]["role"] != "assistant":
            raise
        return tokenizer.apply_chat_template(list(turns), continue_final_message=True, **options) + "\n"
    if not _TAG.search(text[-200:]):
        return text
    spoken = tokenizer.apply_chat_template(list(turns), add_generation_prompt=False, **options)
    begins = next(
        (i for i, (a, b) in enumerate(zip(text, spoken, strict=False)) if a != b), min(len(text), len(spoken))
    )
    return text + _closing(text[begins:])


def _closing(head: str) -> str:
    """What closes the thought that the beginning of a reply leaves open, if it leaves one open."""
    *_, last = [None, *_TAG.finditer(head)]
    if last is None or last["closes"]:
        return ""
    if not _CLOSABLE.fullmatch(last["name"]):
        raise FormatError(
            f"the chat template opens {last[0]!r} before each reply, and how to close that is not known. Give the "
            "model a template without thinking"
        )
    mark = "/" if not last["opens"] else last["opens"].lower().replace("begin", "end").replace("start", "end")
    mark = mark.upper() if last["name"].isupper() else mark
    lines = "\n" if head.endswith("\n") else "\n\n"
    return f"{lines}{last['left']}{mark}{last['name']}{last['right']}\n\n"


def _remedy(tokenizer: Any, turns: Turns, prompt: bool, options: dict[str, Any]) -> str:
    """What makes the template take the conversation: found by trying."""
    first = next((i for i, turn in enumerate(turns) if turn["role"] == "user"), 0)
    system, greeting = "its system message", "the listener's turns before the speaker's first"
    for left_out, kept in (
        (system, [turn for turn in turns if turn["role"] != "system"]),
        (greeting, [turn for i, turn in enumerate(turns) if i >= first or turn["role"] == "system"]),
        (f"{system} and {greeting}", turns[first:]),
    ):
        try:
            _rendered(tokenizer, kept, prompt, options)
        except _refusals():
            continue
        return f"Leave out {left_out}, or give the model a chat template that takes this (chat_template.jinja)"
    return "Give the model a chat template that takes this (chat_template.jinja in its folder)"
