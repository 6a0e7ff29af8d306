"""Row formats: the columns of a data set determine its format, and the format's parser turns a row into turns.

A parser raises [`BadRow`] for a row that is not a conversation. A single bad turn becomes a [`Message`] with its
`problem`, because the turns before it are still good.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import FormatError


_NAMES = {
    "system": ("system", "developer"),
    "user": ("user", "human", "speaker", "prompter"),
    "assistant": ("assistant", "gpt", "chatgpt", "bot", "model", "listener"),
}
_ROLES = {name: role for role, names in _NAMES.items() for name in names}


class Message(NamedTuple):
    """
    One turn of a conversation.

    Args:
        role (`str`): `"system"`, `"user"`, `"assistant"`, or `""` for every other role.
        text (`str`): What was said; `""` if there is a problem.
        problem (`str`, *optional*): One of [`~ee_trl.data.dialogue.REASONS`], if the turn cannot be used.
    """

    role: str
    text: str
    problem: str | None = None


class BadRow(Exception):
    """A row cannot be parsed; the argument is one of [`~ee_trl.data.dialogue.REASONS`]."""


def parse_messages(value: Any) -> list[Message]:
    """Reads a list of `{"role", "content"}` or `{"from", "value"}`, its JSON string, or a dict of lists."""
    if value is None:
        raise BadRow("null_dialogue")
    try:
        if isinstance(value, str):
            value = json.loads(value)
        if isinstance(value, Mapping):  # older files hold a list of turns as {"from": [...], "value": [...]}
            value = _turns_of_lists(value)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, (list, tuple)):
        raise BadRow("wrong_type")
    return [_message(turn) for turn in value]


def _turns_of_lists(lists: Mapping[str, Any]) -> list[dict[str, Any]]:
    if not lists or not all(isinstance(values, (list, tuple)) for values in lists.values()):
        raise ValueError
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def _message(turn: Any) -> Message:
    if not isinstance(turn, Mapping):
        return Message("", "", "null_dialogue" if turn is None else "wrong_type")
    # files that mix the two spellings have all four keys, half of them null
    names = ("role", "content") if turn.get("from") is None else ("from", "value")
    role, content = (turn.get(name) for name in names)
    if not isinstance(role, str) or role.lower() not in _ROLES:
        return Message("", "", "unknown_role")
    try:
        return Message(_ROLES[role.lower()], content_text(content))
    except BadRow as bad:
        return Message(_ROLES[role.lower()], "", str(bad))


def content_text(content: Any) -> str:
    """The text of a turn's content, which is a text or a list of text parts; raises [`BadRow`] for anything else."""
    if isinstance(content, str):
        return content
    if isinstance(content, (list, tuple)):  # parts, as multimodal chat templates have them
        if any(isinstance(part, Mapping) and (part.get("type") or "text") != "text" for part in content):
            raise BadRow("not_text_alone")
        if all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content):
            return " ".join(part["text"] for part in content)
        raise BadRow("wrong_type")
    raise BadRow("null_dialogue" if content is None else "wrong_type")


def _parse_prompt_completion(row: Mapping[str, Any]) -> list[Message]:
    return _side(row.get("prompt"), "user") + _side(row.get("completion"), "assistant")


def _side(value: Any, role: str) -> list[Message]:
    """The turns of a prompt or a completion; plain text is one turn of that `role`."""
    if isinstance(value, str) and not value.lstrip().startswith('[{"'):
        return [Message(role, value)]
    return parse_messages(value)


def _parse_context_response(row: Mapping[str, Any]) -> list[Message]:
    context, response = row.get("context"), row.get("response")
    if context is None or response is None:
        raise BadRow("null_dialogue")
    if isinstance(context, str):
        context = [part.strip() for part in context.split("</s>")]
        while len(context) > 1 and not context[-1]:  # a trailing separator does not begin another utterance
            context.pop()
    if not isinstance(context, (list, tuple)) or not isinstance(response, str):
        raise BadRow("wrong_type")
    if context and isinstance(context[0], Mapping):
        return [*parse_messages(context), Message("assistant", response)]
    # utterances alternate, and the last is the speaker's
    roles = ["user" if (len(context) - i) % 2 else "assistant" for i in range(len(context))]
    said = [Message(role, content_text(text)) for role, text in zip(roles, context, strict=True)]
    return [*said, Message("assistant", response)]


def _parse_utterance(row: Mapping[str, Any]) -> list[Message]:
    """One utterance of raw EmpatheticDialogues; the role is the speaker's number until the conversation is known."""
    return [Message(str(row.get("speaker_idx")), content_text(row.get("utterance")).replace("_comma_", ","))]


@dataclass(frozen=True)
class DialogueFormat:
    """
    A row format.

    Args:
        name (`str`): Its name in messages.
        columns (`tuple[str, ...]`): A data set with all of these columns has this format.
        parse (`Callable`): Turns a row into the whole conversation; raises [`BadRow`].
        example (`str`): One row, for error messages.
        multi_turn (`bool`, *optional*, defaults to `False`): Whether a conversation can hold several listener turns.
        utterance_rows (`bool`, *optional*, defaults to `False`): Whether a row is one utterance, so that a
            conversation spans several rows.
    """

    name: str
    columns: tuple[str, ...]
    parse: Callable[[Any], list[Message]]
    example: str
    multi_turn: bool = False
    utterance_rows: bool = False

    @property
    def dialogue_columns(self) -> tuple[str, ...]:
        """The columns that `prompt` and `completion` replace in a selection."""
        return () if self.utterance_rows else self.columns


_ALL = (  # in order of precedence: what `select` writes comes first
    DialogueFormat(
        "prompt_completion",
        ("prompt", "completion"),
        _parse_prompt_completion,
        '{"prompt": [{"role": "user", "content": "..."}], "completion": [{"role": "assistant", ...}]} or texts',
    ),
    DialogueFormat(
        "messages",
        ("messages",),
        lambda row: parse_messages(row.get("messages")),
        '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}',
        multi_turn=True,
    ),
    DialogueFormat(
        "sharegpt",
        ("conversations",),
        lambda row: parse_messages(row.get("conversations")),
        '{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}',
        multi_turn=True,
    ),
    DialogueFormat(
        "empathetic_dialogues",
        ("conv_id", "utterance_idx", "speaker_idx", "utterance"),
        _parse_utterance,
        "one utterance a row: conv_id, utterance_idx, speaker_idx, utterance (and context, the emotion)",
        multi_turn=True,
        utterance_rows=True,
    ),
    DialogueFormat(
        "context_response",
        ("context", "response"),
        _parse_context_response,
        '{"context": ["...", "..."] or "... </s> ...", "response": "..."}',
    ),
)
FORMATS: dict[str, DialogueFormat] = {fmt.name: fmt for fmt in _ALL}
"""Every known format, by name."""


def recognise(columns: Collection[str]) -> DialogueFormat:
    """The format of a data set with these columns."""
    for name in ("image", "images"):
        if name in columns:
            raise FormatError(
                f"the column {name!r} holds images, but scorers read text only. If the dialogues make sense without "
                f"the images, drop the column: dataset.remove_columns({name!r})"
            )
    for fmt in FORMATS.values():
        if all(name in columns for name in fmt.columns):
            return fmt
    known = "\n".join(f"  {fmt.name}: {fmt.example}" for fmt in FORMATS.values())
    raise FormatError(
        f"no dialogue format fits the columns {sorted(columns)}. Rename your columns to those of a known format "
        f"(dataset.rename_column):\n{known}"
    )
