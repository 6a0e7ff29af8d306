"""Any row format -> [`Dialogue`]: one listener turn with what came before it.

A *format* is recognised from a data set's columns alone ([`recognise`]). Its parser turns one row into the whole
conversation, a list of `(role, text)`; everything after that is the same for all formats: which turns are samples
([`samples_of`]), what makes a row bad ([`REASONS`]), and the prompt and completion that TRL trains on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from .errors import FormatError, unknown


SCORED = "scored"
"""The `score_status` of a sample that has scores; every other status is one of [`REASONS`]."""

REASONS = {
    "null_dialogue": "a dialogue column is null",
    "wrong_type": "a dialogue column holds something that is not text or a list of turns",
    "empty_dialogue": "there is no turn at all",
    "empty_context": "nothing was said before the reply",
    "empty_response": "the reply is empty or white space",
    "ends_with_speaker": "the dialogue ends in the speaker's turn: there is no reply to score",
    "unknown_role": "a turn's role is none of system, user, assistant",
    "missing_turns": "utterances of this conversation are missing before the reply",
    "turn_too_long": "a turn has more than 32,768 characters",
    "invalid_text": "a turn holds lone surrogates, which are not text",
    "invalid_json": "the line of the file is not JSON",
    "too_long_for_scorer": "the last turn and the reply do not fit the scorer's model",
    "scorer_gave_none": "the scorer gave no number",
    "score_out_of_range": "the scorer gave a number outside [0, 10]",
    "answer_not_in_form": "the judge's answer is not in the rubric's form",
    "server_timeout": "the server did not answer in time",
    "server_unavailable": "the server could not be reached, was overloaded or failed",
    "server_refused": "the server refused this sample: too long for the model, filtered, not valid",
    "server_malformed": "the server's answer is not a chat completion with what was asked for",
}
"""Why a sample can be unscored, by name."""

NOTHING_TO_SCORE = ("ends_with_speaker",)
"""Those of [`REASONS`] that are no failure: the data are as they should be, there is just no reply."""

MAX_TURN_CHARS = 32_768
SOURCE_ERROR = "source_error"
"""Column that a reader sets, to one of [`REASONS`], on a row that it could not take as it stands in the file."""

Turns = Literal["each", "last"]
Message = tuple[str, str]  # (role, text), role one of "system", "user", "assistant"

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


@dataclass(frozen=True, slots=True)
class Dialogue:
    """
    One sample: a listener's reply with what came before it.

    Args:
        context (`tuple[str, ...]`):
            The utterances before the reply, oldest first; the last is normally the speaker's.
        response (`str`):
            The listener's reply, which is what is scored.
        roles (`tuple[str, ...]`):
            `"user"` (speaker) or `"assistant"` (listener) for each utterance of `context`.
        system (`str`, *optional*):
            The system message, which is trained on but not scored.
    """

    context: tuple[str, ...]
    response: str
    roles: tuple[str, ...]
    system: str | None = None

    @property
    def last_speaker_turn(self) -> str:
        """The speaker's last utterance before the reply, `""` where there is none."""
        for role, text in zip(reversed(self.roles), reversed(self.context), strict=True):
            if role == "user":
                return text
        return ""

    @property
    def prompt(self) -> list[dict[str, str]]:
        """The messages before the reply, as TRL's conversational `prompt`."""
        head = [{"role": "system", "content": self.system}] if self.system else []
        return head + [{"role": r, "content": t} for r, t in zip(self.roles, self.context, strict=True)]

    @property
    def completion(self) -> list[dict[str, str]]:
        """The reply, as TRL's conversational `completion`."""
        return [{"role": "assistant", "content": self.response}]


class Sample(NamedTuple):
    """A listener turn found in row number `row`: a `dialogue`, or the `reason` why there is none to score."""

    row: int
    turn: int | None
    dialogue: Dialogue | None
    reason: str | None


class BadRow(Exception):
    """Raised by parsers; the argument is one of [`REASONS`]."""


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
        raise BadRow("null_dialogue" if turn is None else "wrong_type")
    # files that mix the two spellings have all four keys, half of them null
    names = ("role", "content") if turn.get("from") is None else ("from", "value")
    role, content = (turn.get(name) for name in names)
    if isinstance(role, str) and role.lower() in _ROLES:
        return _ROLES[role.lower()], _text(content)
    raise BadRow("unknown_role")


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, (list, tuple)):  # content parts of multimodal chat templates; text parts only
        for part in content:
            if isinstance(part, Mapping) and (part.get("type") or "text") != "text":
                raise FormatError(
                    f"a message holds a part of type {part['type']!r}; only text is supported, rows with images are "
                    "refused. Drop those rows or keep their text parts first."
                )
        if all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content):
            return " ".join(part["text"] for part in content)
        raise BadRow("wrong_type")
    raise BadRow("null_dialogue" if content is None else "wrong_type")


def _parse_prompt_completion(row: Mapping[str, Any]) -> list[Message]:
    return _side(row.get("prompt"), "user") + _side(row.get("completion"), "assistant")


def _side(value: Any, role: str) -> list[Message]:
    """A prompt or a completion: plain text is one turn of that `role`."""
    if isinstance(value, str) and not value.lstrip().startswith('[{"'):
        return [(role, value)]
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
        return [*parse_messages(context), ("assistant", response)]
    # utterances alternate, and the last is the speaker's
    roles = ["user" if (len(context) - i) % 2 else "assistant" for i in range(len(context))]
    return [(role, _text(text)) for role, text in zip(roles, context, strict=True)] + [("assistant", response)]


def _parse_utterance(row: Mapping[str, Any]) -> list[Message]:
    """One utterance of raw EmpatheticDialogues; the role is its speaker's number until the conversation is known."""
    return [(str(row.get("speaker_idx")), _text(row.get("utterance")).replace("_comma_", ","))]


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


def check_turns(turns: str) -> None:
    """Raises [`FormatError`] unless `turns` is `"each"` or `"last"`."""
    if turns not in get_args(Turns):
        raise FormatError(unknown("turns", turns, get_args(Turns)))


# ---- samples -------------------------------------------------------------------------------------------------------


def samples_of(fmt: DialogueFormat, rows: Sequence[Mapping[str, Any]], turns: Turns = "each") -> list[Sample]:
    """
    The samples of a batch of rows, in order.

    Args:
        fmt (`DialogueFormat`):
            What the rows are; a format of utterance rows wants whole conversations in the batch.
        rows (`Sequence[Mapping[str, Any]]`):
            One mapping of column to value a row. A row with a `turn` that is already one sample of a conversation (as
            [`~EmpathyDataSelector.score`] writes them) gives that sample alone.
        turns (`"each"` or `"last"`, *optional*, defaults to `"each"`):
            Whether every listener turn is a sample, or only the last of each conversation.

    Returns:
        `list[Sample]`: at least one for every row (for utterance rows: for every listener utterance, and one for a
        speaker's utterance that nobody answered), so that nothing is lost; those that cannot be scored say why.
    """
    if fmt.utterance_rows:
        return [s for span in conversations(rows) for s in _conversation_samples(fmt, rows, span, turns)]
    return [sample for i, row in enumerate(rows) for sample in _row_samples(fmt, i, row, turns)]


def _row_samples(fmt: DialogueFormat, i: int, row: Mapping[str, Any], turns: Turns) -> list[Sample]:
    if row.get(SOURCE_ERROR):
        return [Sample(i, None, None, row[SOURCE_ERROR])]
    try:
        messages = fmt.parse(row)
    except BadRow as bad:
        return [Sample(i, None, None, str(bad))]
    turn = _named_turn(row, messages) if fmt.multi_turn else None
    if turn is not None:
        return [_sample(i, messages, turn)]
    if fmt.multi_turn and turns == "each":
        return [_sample(i, messages, turn) for turn in _listener_turns(messages)]
    return [_sample(i, messages, _last_turn(messages))]


def _named_turn(row: Mapping[str, Any], messages: Sequence[Message]) -> int | None:
    """The turn that a row of a conversation which `score` spread out stands for; `None` for every other row."""
    if row.get("row_index") is None:
        return None
    turn = whole_number(row.get("turn"))
    return turn if turn is not None and 0 <= turn < len(messages) else None


def _last_turn(messages: Sequence[Message]) -> int:
    """The last turn that somebody speaks; -1 where nobody does."""
    return max((i for i, (role, _) in enumerate(messages) if role != "system"), default=-1)


def _listener_turns(messages: Sequence[Message]) -> list[int]:
    """Where the listener speaks; and the last turn, where the speaker was left without a reply (or none spoke)."""
    found = [i for i, (role, _) in enumerate(messages) if role == "assistant"]
    last = _last_turn(messages)
    return found if last in found else [*found, last]


def _sample(i: int, messages: Sequence[Message], turn: int) -> Sample:
    """The sample whose reply is message number `turn`, or the reason why there is none."""
    if not 0 <= turn < len(messages):
        return Sample(i, None, None, "empty_dialogue")
    role, response = messages[turn]
    before = [m for m in messages[:turn] if m[0] != "system"]
    system = "\n".join(text for role, text in messages[:turn] if role == "system")
    reason = _problem(role, response, before, system)
    if reason:
        return Sample(i, turn, None, reason)
    roles, context = zip(*before, strict=True)
    return Sample(i, turn, Dialogue(context, response, roles, system or None), None)


def _problem(role: str, response: str, before: Sequence[Message], system: str) -> str | None:
    if role != "assistant":
        return "ends_with_speaker"
    if not before or not before[-1][1].strip():
        return "empty_context"
    if not response.strip():
        return "empty_response"
    texts = [response, system, *(text for _, text in before)]
    if any(len(text) > MAX_TURN_CHARS for text in texts):
        return "turn_too_long"
    if any(has_lone_surrogates(text) for text in texts):
        return "invalid_text"
    return None


def has_lone_surrogates(text: str) -> bool:
    """Whether `text` cannot be encoded: it holds half of a surrogate pair."""
    if text.isascii():
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


# ---- conversations of one utterance a row --------------------------------------------------------------------------


def conversations(rows: Sequence[Mapping[str, Any]]) -> Iterable[range]:
    """The runs of neighbouring rows with one `conv_id`."""
    start = 0
    for i in range(1, len(rows) + 1):
        if i == len(rows) or rows[i].get("conv_id") != rows[start].get("conv_id"):
            yield range(start, i)
            start = i


def _conversation_samples(
    fmt: DialogueFormat, rows: Sequence[Mapping[str, Any]], span: range, turns: Turns
) -> list[Sample]:
    """The samples of the utterance rows `span`; what follows a gap or a bad utterance cannot be scored."""
    messages: list[Message] = []
    broken: dict[int, str] = {}  # turn -> reason, from the first bad one on
    for turn, i in enumerate(span):
        role = "user" if str(rows[i].get("speaker_idx")) == str(rows[span[0]].get("speaker_idx")) else "assistant"
        text = ""
        try:
            [(_, text)] = fmt.parse(rows[i])
        except BadRow as bad:
            broken[turn] = str(bad)
        if broken or utterance_number(rows[i].get("utterance_idx")) != turn + 1:
            broken.setdefault(turn, "missing_turns")
        messages.append((role, text))
    wanted = _listener_turns(messages) if turns == "each" else [len(messages) - 1]
    samples = [_sample(span[turn], messages, turn) for turn in wanted]
    return [Sample(s.row, s.turn, None, broken[s.turn]) if s.turn in broken else s for s in samples]


def utterance_number(value: Any) -> float:
    """A numbering as files give it (`2`, `2.0` or `"2"`); infinite where it is no number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return math.inf
    return math.inf if math.isnan(number) else number


def whole_number(value: Any) -> int | None:
    """A whole number as files give it (`2`, or `2.0` where the column has nulls); `None` for everything else."""
    if isinstance(value, (int, float)) and math.isfinite(value) and value == int(value):
        return int(value)
    return None
