"""The row formats: each is recognised from a data set's columns, and its parser turns a row into a conversation.

A row that is no conversation at all raises [`BadRow`]; a turn that cannot be used is a [`Message`] with its `problem`,
since the turns before it are none the worse for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import FormatError


_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "speaker": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "listener": "assistant",
}


class Message(NamedTuple):
    """
    One turn of a conversation.

    Args:
        role (`str`): `"system"`, `"user"` or `"assistant"`; `""` where it is none of them.
        text (`str`): What was said.
        problem (`str`, *optional*): Of [`~ee_trl.data.dialogue.REASONS`], why the turn is unusable; its text is `""`.
    """

    role: str
    text: str
    problem: str | None = None


class BadRow(Exception):
    """Raised by parsers; the argument is one of [`~ee_trl.data.dialogue.REASONS`]."""


# ---- parsers: one row -> the whole conversation --------------------------------------------------------------------


def parse_messages(value: Any) -> list[Message]:
    """A list of `{"role", "content"}` or `{"from", "value"}` turns; the same as a JSON string or as columns."""
    if value is None:
        raise BadRow("null_dialogue")
    if isinstance(value, str):
        value = _from_json(value)
    if isinstance(value, Mapping):  # how older files hold a list of turns: {"from": [...], "value": [...]}
        value = _turns_of_lists(value)
    if not isinstance(value, (list, tuple)):
        raise BadRow("wrong_type")
    return [_message(turn) for turn in value]


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise BadRow("wrong_type") from None


def _turns_of_lists(lists: Mapping[str, Any]) -> list[dict[str, Any]]:
    if not all(isinstance(values, (list, tuple)) for values in lists.values()):
        raise BadRow("wrong_type")
    if len({len(values) for values in lists.values()}) != 1:
        raise BadRow("wrong_type")
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
    """The text of a turn's content, a text or a list of such parts; raises [`BadRow`] for anything else."""
    if isinstance(content, str):
        return content
    if isinstance(content, (list, tuple)):  # content parts of multimodal chat templates; text parts only
        if any(isinstance(part, Mapping) and (part.get("type") or "text") != "text" for part in content):
            raise BadRow("not_text_alone")
        if all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content):
            return " ".join(part["text"] for part in content)
        raise BadRow("wrong_type")
    raise BadRow("null_dialogue" if content is None else "wrong_type")


def _parse_prompt_completion(row: Mapping[str, Any]) -> list[Message]:
    return _side(row.get("prompt"), "user") + _side(row.get("completion"), "assistant")


def _side(value: Any, role: str) -> list[Message]:
    """A prompt or a completion: plain text is one turn of that `role`."""
    if isinstance(value, str) and not value.lstrip().startswith('[{"'):
        return [Message(role, value)]
    return parse_messages(value)


def _parse_context_response(row: Mapping[str, Any]) -> list[Message]:
    context, response = row.get("context"), row.get("response")
    if context is None or response is None:
        raise BadRow("null_dialogue")
    if isinstance(context, str):
        context = [part.strip() for part in context.split("</s>")]
        while len(context) > 1 and not context[-1]:  # a trailing separator ends the last utterance, it adds none
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
    """One utterance of raw EmpatheticDialogues; the role is its speaker's number until the conversation is known."""
    return [Message(str(row.get("speaker_idx")), content_text(row.get("utterance")).replace("_comma_", ","))]


# ---- formats -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DialogueFormat:
    """
    A row format.

    Args:
        name (`str`): What it is called in messages.
        columns (`tuple[str, ...]`): The columns it is recognised by, all of them needed.
        dialogue_columns (`tuple[str, ...]`): Those that `prompt` and `completion` take the place of.
        multi_turn (`bool`): Whether a row (or a conversation) can hold several listener turns.
        parse (`Callable`): One row -> the whole conversation; raises [`BadRow`].
        example (`str`): One row, for error messages.
    """

    name: str
    columns: tuple[str, ...]
    dialogue_columns: tuple[str, ...]
    multi_turn: bool
    parse: Callable[[Any], list[Message]]
    example: str

    @property
    def utterance_rows(self) -> bool:
        """Whether a row is one utterance, so that a conversation spans several rows."""
        return self.name == "empathetic_dialogues"


FORMATS: dict[str, DialogueFormat] = {
    fmt.name: fmt
    for fmt in (  # in order of precedence: what `select` writes comes first
        DialogueFormat(
            "prompt_completion",
            ("prompt", "completion"),
            ("prompt", "completion"),
            False,
            _parse_prompt_completion,
            '{"prompt": [{"role": "user", "content": "..."}], "completion": [{"role": "assistant", ...}]} or texts',
        ),
        DialogueFormat(
            "messages",
            ("messages",),
            ("messages",),
            True,
            lambda row: parse_messages(row.get("messages")),
            '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}',
        ),
        DialogueFormat(
            "sharegpt",
            ("conversations",),
            ("conversations",),
            True,
            lambda row: parse_messages(row.get("conversations")),
            '{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}',
        ),
        DialogueFormat(
            "empathetic_dialogues",
            ("conv_id", "utterance_idx", "speaker_idx", "utterance"),
            (),
            True,
            _parse_utterance,
            "one utterance a row: conv_id, utterance_idx, speaker_idx, utterance (and context, the emotion)",
        ),
        DialogueFormat(
            "context_response",
            ("context", "response"),
            ("context", "response"),
            False,
            _parse_context_response,
            '{"context": ["...", "..."] or "... </s> ...", "response": "..."}',
        ),
    )
}
"""Every format that is known, by name."""

_IMAGE_COLUMNS = ("image", "images")


def recognise(columns: Collection[str]) -> DialogueFormat:
    """
    The format of a data set with these columns.

    Raises:
        [`FormatError`]: There are image columns, or no known format fits; the message lists the columns and formats.
    """
    images = [name for name in _IMAGE_COLUMNS if name in columns]
    if images:
        raise FormatError(
            f"rows with images are refused: column {images[0]!r}. Scores are of text alone; drop the column "
            f"(dataset.remove_columns({images[0]!r})) if the dialogues make sense without it."
        )
    for fmt in FORMATS.values():
        if all(name in columns for name in fmt.columns):
            return fmt
    known = "\n".join(f"  {fmt.name}: {fmt.example}" for fmt in FORMATS.values())
    raise FormatError(
        f"no dialogue format fits the columns {sorted(columns)}. Rename your columns to one of the known formats "
        f"(dataset.rename_column):\n{known}"
    )
