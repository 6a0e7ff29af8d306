"""Row formats: the columns of a data set determine its format, and the format's parser turns a row into turns.

A parser raises [`BadRow`] for a row that is not a conversation. A single bad turn becomes a [`Message`] with its
`problem`, because the turns before it are still good.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ..errors import FormatError


_NAMES = {
    "system": ("system", "developer"),
    "user": (
        *("user", "human", "speaker", "prompter", "seeker", "help_seeker", "helpseeker", "support_seeker", "client"),
        *("patient", "usr", "customer", "caller", "visitor", "student", "questioner", "poster", "inquirer", "asker"),
        *("teller", "mentee", "q", "用户", "来访者", "求助者", "usuario", "utilisateur"),
    ),
    "assistant": (
        *("assistant", "gpt", "chatgpt", "bot", "chatbot", "model", "ai", "agent", "listener", "supporter"),
        *("help_supporter", "helper", "counselor", "counsellor", "therapist", "psychologist", "doctor", "sys"),
        *("answerer", "responder", "commenter", "operator", "mentor", "coach", "volunteer", "advisor"),
        *("助手", "咨询师", "支持者", "asistente"),
    ),
}
_ROLES = {name: role for role, names in _NAMES.items() for name in names}
ROLES = tuple(_NAMES)
KEYS = ("role", "content")
"""How a turn's keys and roles are called here; whatever else they are called, a mapping may say."""
_NUMBERED = re.compile(r"(?:agent|speaker|spk|person|participant|interlocutor|user|human|p|s)?_?(?:\d+(?:\.0)?|[ab])")
"""Names that say only who is who, such as agent_1 and agent_2: whoever opens the conversation is the speaker."""
ROLE_KEYS = ("from", "role", "speaker", "sender", "author", "speaker_role", "speaker_id")
TEXT_KEYS = ("value", "content", "text", "utterance", "message")
"""Keys of a turn that hold its role and its text; files that mix spellings have several, all but one null."""
OTHER_COLUMNS = {"completion": ("response",), "dialog": ("dialogue", "conversation", "turns", "utterances")}
"""Further names of a format's column, taken if no format has all of its own columns."""
SYSTEM_COLUMNS = ("system", "system_prompt", "system_message", "system_instruction", "System")
"""Columns whose text is the system message of a conversation that has none."""


class Message(NamedTuple):
    """
    One turn of a conversation.

    Args:
        role (`str`): `"system"`, `"user"`, `"assistant"`, or `""` for every other role.
        text (`str`): What was said. If there is a problem: the unknown role or keys as found, or `""`.
        problem (`str`, *optional*): One of [`~ee_trl.data.dialogue.REASONS`], if the turn cannot be used.
    """

    role: str
    text: str
    problem: str | None = None


class BadRow(Exception):
    """A row cannot be parsed; the argument is one of [`~ee_trl.data.dialogue.REASONS`]."""


def role_named(name: Any) -> str | None:
    """`"system"`, `"user"` or `"assistant"`, if the name is one of theirs."""
    return _ROLES.get(_plain(name))


def _plain(name: Any) -> str:
    return str(name).strip(" :").lower().replace(" ", "_").replace("-", "_")


def parse_messages(value: Any, speakers: dict[str, int] | None = None) -> list[Message]:
    """
    Reads a list of `{"role", "content"}` or `{"from", "value"}`, the same written as text, or a dict of lists.

    `speakers` numbers the people of the conversation who have no role, such as agent_1 and agent_2.
    """
    if value is None:
        raise BadRow("null_dialogue")
    if isinstance(value, str):
        value = _read_list(value)
    if isinstance(value, Mapping):  # older files hold a list of turns as {"from": [...], "value": [...]}
        value = _turns_of_lists(value)
    if not isinstance(value, (list, tuple)):
        raise BadRow("wrong_type")
    speakers = {} if speakers is None else speakers
    return [_message(part, speakers) for turn in value for part in _parts(turn)]


def _parts(turn: Any) -> list[Any]:
    """A turn; or the turns of a mapping whose keys are the roles, as `{"user": "...", "assistant": "..."}`."""
    if not isinstance(turn, Mapping) or "role" in turn or "from" in turn:
        return [turn]
    if not all(map(role_named, turn)) or not set(turn) - set(ROLE_KEYS):
        return [turn]
    return [{"role": name, "content": text} for name, text in turn.items() if text is not None]


def _turns_of_lists(lists: Mapping[str, Any]) -> list[dict[str, Any]]:
    lengths = {len(values) if isinstance(values, (list, tuple)) else -1 for values in lists.values()}
    if len(lengths) != 1 or -1 in lengths:
        raise BadRow("wrong_type")
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


_LIST = re.compile(
    r"""\s* (?: \( \s* ['"{\[]
    | (?:array\(\s*)? \[ (?: \s*\]\s*$ | [\s\[(]* (?: ['"{] | array\( | (?:None|null|nan)\s*[,\]] ) )
    | \{ \s* ['"] (?:ROLE_OR_TEXT) ['"] \s* : )""".replace("ROLE_OR_TEXT", "|".join((*ROLE_KEYS, *TEXT_KEYS))),
    re.VERBOSE,
)
_TOKEN = re.compile(
    r"""(?: '(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*" | [}\])] ) \s* | array(?=\() | ,\s*dtype=[^)]* | \bnan\b""",
    re.VERBOSE | re.DOTALL,
)


def listed(text: str) -> Any:
    """The list or mapping that a text is written as; `None` for other text. Raises [`BadRow`] for a broken list."""
    if text[:1].isalnum() and not text.startswith("array("):
        return None
    text = _unquoted(text)
    if not _LIST.match(text):
        return None
    try:
        return _read_list(text)
    except BadRow:
        if text.lstrip().startswith("("):  # people write in brackets, too
            return None
        raise


def _unquoted(text: str) -> str:
    """A text that was written as JSON twice, as it was after the first time; any other text as it is."""
    if re.match(r'\s*"\s*[\[{]', text):
        try:
            return _unquoted(json.loads(text))
        except (ValueError, TypeError):
            pass
    return text


def _read_list(text: str) -> Any:
    """A list or mapping written as JSON, as a Python literal, or as numpy prints arrays; nothing is evaluated."""
    text = _unquoted(text)
    for read in (json.loads, _literal):
        try:
            value = read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        if isinstance(value, (list, tuple, Mapping)):
            return value
    raise BadRow("wrong_type")


def _literal(text: str) -> Any:
    """The value of a Python literal; numpy leaves out commas, and Python would join neighbouring strings."""
    text = text.strip()

    def mended(match: re.Match[str]) -> str:
        token, end = match[0], match.end()
        if token[0] in "'\"}])":
            return token + "," if end < len(text) and text[end] in "'\"{[(" else token
        return "None" if token == "nan" else ""

    with warnings.catch_warnings():  # unknown escapes
        warnings.simplefilter("ignore")
        return ast.literal_eval(_TOKEN.sub(mended, text))


def _short_texts_first(turn: Mapping[str, Any]) -> list[str]:
    """A turn's keys in an order that Arrow does not change: a role is shorter than what it says."""
    found = sorted(turn.items(), key=lambda pair: (not isinstance(pair[1], str), len(str(pair[1])), str(pair[0])))
    return [str(key) for key, _ in found]


def _message(turn: Any, speakers: dict[str, int]) -> Message:
    if not isinstance(turn, Mapping):
        return Message("", "", "null_dialogue" if turn is None else "wrong_type")
    role, content = turn.get("role"), turn.get("content")
    side = _ROLES.get(role) if isinstance(role, str) and turn.get("from") is None else None
    if side and isinstance(content, str) and content[:1].isalpha() and content[:6] != "array(":  # most turns
        speakers[side] = _PLACES.get(side, -1)
        return Message(side, content)
    given, turn = turn, {str(key).lower(): value for key, value in turn.items()}
    key = next((key for key in ROLE_KEYS if turn.get(key) is not None), None)
    name = turn[key] if key else None
    role = _role_of(name, speakers) if isinstance(name, (str, int, float)) else None
    if role == "":
        return Message("", "", "too_many_speakers")
    if role is None:
        return Message(
            "", f"{key}: {name!r}" if key else f"keys: {', '.join(_short_texts_first(given))}", "unknown_role"
        )
    content = next((turn[key] for key in TEXT_KEYS if turn.get(key) is not None), None)
    if content is None and not any(key in turn for key in TEXT_KEYS):
        others = [name for name in _short_texts_first(given) if name.lower() not in ROLE_KEYS]
        return Message(role, f"keys: {', '.join(others)}", "null_dialogue")
    try:
        return Message(role, content_text(content))
    except BadRow as bad:
        return Message(role, "", str(bad))


_PLACES = {"user": 0, "assistant": 1}


def _role_of(name: Any, speakers: dict[str, int]) -> str | None:
    """The role of a name; people without a role get the sides that are free, in order. `""` for a third person."""
    plain = _plain(name)
    if role := _ROLES.get(plain):
        speakers[role] = _PLACES.get(role, -1)
        return role
    if not _NUMBERED.fullmatch(plain):
        return None
    plain = plain.removesuffix(".0")
    if plain not in speakers:
        speakers[plain] = next((side for side in (0, 1) if side not in speakers.values()), 2)
    return (*_PLACES, "")[speakers[plain]]


def content_text(content: Any) -> str:
    """The text of a turn's content, which is a text or a list of text parts; raises [`BadRow`] for anything else."""
    if isinstance(content, str):
        parts = _parts_of(content)
        if parts is None:
            return content
        content = parts
    if isinstance(content, (list, tuple)):  # parts, as multimodal chat templates have them
        if any(isinstance(part, Mapping) and (part.get("type") or "text") != "text" for part in content):
            raise BadRow("not_text_alone")
        if all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content):
            return " ".join(part["text"] for part in content)
        raise BadRow("wrong_type")
    raise BadRow("null_dialogue" if content is None else "wrong_type")


def _parts_of(text: str) -> list[Any] | None:
    """The list of parts that a text is written as; `None` for any other text."""
    try:
        parts = listed(text)
    except BadRow:
        return None
    of_parts = parts and all(isinstance(part, Mapping) and {"type", "text"} & set(part) for part in parts)
    return list(parts) if of_parts else None


def _parse_prompt_completion(row: Mapping[str, Any]) -> list[Message]:
    speakers: dict[str, int] = {}
    return _joined(_side(row.get("prompt"), "user", speakers), _side(_value(row, "completion"), "assistant", speakers))


def _joined(before: list[Message], reply: list[Message]) -> list[Message]:
    """The conversation; a reply of preference data may repeat all that was said before it."""
    return reply if len(reply) > len(before) and reply[: len(before)] == before else before + reply


def _value(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column, by its own name or one of its others."""
    names = (column, *OTHER_COLUMNS.get(column, ()))
    return next((row[name] for name in names if name in row), None)


def _side(value: Any, role: str, speakers: dict[str, int] | None = None) -> list[Message]:
    """The turns of a prompt, a completion or a response: a list or one turn; plain text is one turn of that `role`."""
    if isinstance(value, str):
        found = listed(value)
        if found is None:
            return [Message(role, value)]
        value = found
    if isinstance(value, (list, tuple)) and len(value) == 1 and isinstance(value[0], str):
        return [Message(role, value[0])]
    if isinstance(value, Mapping) and not any(isinstance(v, (list, tuple)) for v in value.values()):
        value = [value]
    return parse_messages(value, speakers)


def _parse_conversation(column: str) -> Callable[[Mapping[str, Any]], list[Message]]:
    """Reads the conversation in a column; a column `response` may hold the reply to it."""

    def parse(row: Mapping[str, Any]) -> list[Message]:
        value, speakers = row[column] if column in row else _value(row, column), dict[str, int]()
        if column == "dialog":
            value = listed(value) if isinstance(value, str) else value
            if isinstance(value, (list, tuple)) and value and all(isinstance(text, str) for text in value):
                return _alternating(value, "user")
        said = parse_messages(value, speakers)
        if row.get("response") is not None:
            spoken = [message.role for message in said if message.role != "system"]
            if spoken[-1:] != ["assistant"]:
                return _joined(said, _side(row["response"], "assistant", speakers))
        return said

    return parse


def _alternating(texts: Sequence[Any], first: str) -> list[Message]:
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    return [Message(roles[i % 2], content_text(text)) for i, text in enumerate(texts)]


def _parse_context_response(row: Mapping[str, Any]) -> list[Message]:
    context, response = row.get("context"), row.get("response")
    if context is None or response is None:
        raise BadRow("null_dialogue")
    if isinstance(context, str):
        found = listed(context)
        context = _utterances(context) if found is None else found
    reply, texts = _side(response, "assistant"), isinstance(context, (list, tuple))
    if not texts or (context and not isinstance(context[0], str) and isinstance(context[0], Mapping)):
        speakers: dict[str, int] = {}
        return _joined(parse_messages(context, speakers), _side(response, "assistant", speakers))
    # utterances alternate, and the last is the speaker's
    said = _alternating(context, "user" if len(context) % 2 else "assistant")
    return [*said, *reply]


def _utterances(context: str) -> list[str]:
    """The utterances of a text that joins them; a separator at its end does not begin another one."""
    parts = [part.strip() for part in context.split("</s>")]
    while len(parts) > 1 and not parts[-1]:
        parts.pop()
    return parts


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
        _parse_conversation("messages"),
        '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}',
        multi_turn=True,
    ),
    DialogueFormat(
        "sharegpt",
        ("conversations",),
        _parse_conversation("conversations"),
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
    DialogueFormat(
        "dialog",
        ("dialog",),
        _parse_conversation("dialog"),
        '{"dialog": [{"speaker": "seeker", "content": "..."}, {"speaker": "supporter", ...}]} or texts by turns',
        multi_turn=True,
    ),
)
FORMATS: dict[str, DialogueFormat] = {fmt.name: fmt for fmt in _ALL}
"""Every known format, by name."""


def fitting(columns: Collection[str]) -> DialogueFormat | None:
    """The first format that fits these columns, if any."""
    for fmt in FORMATS.values():
        if all(name in columns for name in fmt.columns):
            return fmt
    for fmt in FORMATS.values():
        names = [next((n for n in (c, *OTHER_COLUMNS.get(c, ())) if n in columns), "") for c in fmt.columns]
        if all(names):
            return replace(fmt, columns=tuple(names))
    return None


def recognise(columns: Collection[str]) -> DialogueFormat:
    """The format of a data set with these columns."""
    for name in ("image", "images"):
        if name in columns:
            raise FormatError(
                f"the column {name!r} holds images, but scorers read text only. If the dialogues make sense without "
                f"the images, drop the column: dataset.remove_columns({name!r})"
            )
    if fmt := fitting(columns):
        return _unambiguous(fmt, columns)
    known = "\n".join(f"  {fmt.name}: {fmt.example}" for fmt in FORMATS.values())
    raise FormatError(
        f"no dialogue format fits the columns {sorted(columns)}. {say_what_it_means(_meanings(columns))}. "
        f"Or rename your columns to those of a known format (dataset.rename_column):\n{known}"
    )


_REPLY = re.compile("respon|repl|answer|output|target|chosen|assistant|bot|listener|doctor|therapist|comment")
_SAID = re.compile("context|question|instruct|input|prompt|query|user|human|speaker|patient|client|post|history")
_TALK = re.compile("message|conversation|dialog|chat|history|turns")
_OF_UTTERANCES = {
    "conv_id": re.compile("(?:conv|dialog|chat|session|thread).*id"),
    "utterance_idx": re.compile("turn|idx|index|number|order"),
    "speaker_idx": re.compile("speaker|role|author|sender|from"),
    "utterance": re.compile("text|content|utterance|message|value|body"),
}


def _meanings(columns: Collection[str]) -> dict[str, str]:
    """What the columns of an unknown format may mean, as an example."""

    def like(parts: re.Pattern[str], *taken: str | None) -> str | None:
        return next((name for name in sorted(columns) if parts.search(_plain(name)) and name not in taken), None)

    rows: dict[str | None, str] = {}
    for meaning, parts in _OF_UTTERANCES.items():
        rows[like(parts, *rows)] = meaning
    if None not in rows:
        return {str(name): meaning for name, meaning in rows.items() if name != meaning}
    reply = like(_REPLY)
    said = like(_SAID, reply) or (like(_TALK, reply) if reply else None)
    if reply and (said or not like(_TALK, reply)):
        return {name: new for name, new in ((said, "context"), (reply, "response")) if name and name not in _KNOWN}
    return {like(_TALK) or "COLUMN": "messages"}


_KNOWN = ("context", "prompt", "response", "completion")


_BESIDE = {
    "context": re.compile(
        r"(?:(?:user|human|client|patient|seeker|speaker|customer)_?)?"
        r"(?:instruction|question|query|input|prompt|request|message|utterance|post|history)(?:_?text)?"
    ),
    "prompt": re.compile("(?:chat_?)?history"),
}
"""Columns that often hold what the speaker said, while `context` is a passage that it is about, or a part of it."""


def _unambiguous(fmt: DialogueFormat, columns: Collection[str]) -> DialogueFormat:
    column = fmt.columns[0]
    others = (name for name in columns if name not in fmt.columns and column in _BESIDE)
    if beside := next((name for name in others if _BESIDE[column].fullmatch(_plain(name))), None):
        raise FormatError(
            f"the column {beside!r} stands beside {column!r}: which of them holds what was said before the reply? "
            f"If it is {beside!r}: --map {beside}={column} (the present {column!r} becomes 'source_{column}'). If "
            f"it is {column!r}, rename the other: --map {beside}=about. In Python: "
            f"mapping={{{beside!r}: {column!r}}}; in a recipe: empathy_map"
        )
    return fmt


def say_what_it_means(meanings: dict[str, str]) -> str:
    """The sentence that says how to give the meaning of columns, keys or roles, by example."""
    flags = " ".join(f"--map {name}={meaning}" for name, meaning in meanings.items())
    return f"Say what names of yours mean, e.g. {flags} (in Python mapping={meanings}, in a recipe empathy_map)"
