"""Any row -> [`Dialogue`]: one listener turn with what came before it.

[`~ee_trl.data.formats`] turns a row into the whole conversation. The rest is the same for all formats: which
turns are samples ([`samples_of`]), what makes them bad ([`REASONS`]), and the prompt and completion to train on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from ..errors import FormatError, unknown
from .formats import FORMATS, BadRow, DialogueFormat, Message, recognise


__all__ = [
    "FORMATS",
    "MAX_TURN_CHARS",
    "NOT_ASKED",
    "REASONS",
    "SCORED",
    "SOURCE_ERROR",
    "Dialogue",
    "DialogueFormat",
    "Sample",
    "Turns",
    "check_turns",
    "dialogue_of",
    "has_lone_surrogates",
    "recognise",
    "samples_of",
    "utterance_number",
    "whole_number",
]


SCORED = "scored"
"""The `score_status` of a sample that has scores; every other status is one of [`REASONS`]."""

REASONS = {
    "null_dialogue": "a dialogue column or a turn is null",
    "wrong_type": "a dialogue column holds something that is not text or a list of turns",
    "not_text_alone": "a turn holds a part that is not text, such as an image",
    "empty_dialogue": "there is no turn at all",
    "empty_context": "nothing was said before the reply",
    "empty_response": "the reply is empty or white space",
    "ends_with_speaker": "the dialogue ends in the speaker's turn: there is no reply to score",
    "unknown_role": "a turn's role is none of system, user, assistant",
    "missing_turns": "utterances of this conversation are missing before the reply",
    "turn_too_long": "a turn has more than 32,768 characters",
    "invalid_text": "a turn holds lone surrogates, which are not text",
    "invalid_json": "the line of the file is not JSON, or nested too deeply",
    "too_many_fields": "the line of the csv file has more fields than its header",
    "too_long_for_scorer": "the last turn and the reply do not fit the scorer's model",
    "out_of_memory": "memory ran out on this dialogue alone",
    "scorer_gave_none": "the scorer gave no number",
    "score_out_of_range": "the scorer gave a number outside [0, 10]",
    "answer_not_in_form": "the judge's answer is not in the rubric's form",
    "server_timeout": "the server did not answer in time",
    "server_unavailable": "the server could not be reached, was overloaded or failed",
    "server_refused": "the server refused this sample: too long for the model, filtered, not valid",
    "server_malformed": "the server's answer is not a chat completion with what was asked for",
    "server_not_asked": "the server had not answered many samples before this one; the next run asks it",
}
"""Why a sample can be unscored, by name."""

NOT_ASKED = "server_not_asked"
"""That of [`REASONS`] which is no answer of the scorer's: such samples are asked by the next run anyway."""

NOTHING_TO_SCORE = ("ends_with_speaker",)
"""Those of [`REASONS`] that are no failure: the data are as they should be, there is just no reply."""

MAX_TURN_CHARS = 32_768
SOURCE_ERROR = "source_error"
"""Column that a reader sets, to one of [`REASONS`], on a row that it could not take as it stands in the file."""

Turns = Literal["each", "last"]


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


def check_turns(turns: str) -> None:
    """Raises [`FormatError`] unless `turns` is `"each"` or `"last"`."""
    if turns not in get_args(Turns):
        raise FormatError(unknown("turns", turns, get_args(Turns)))


def dialogue_of(context: Sequence[Any], response: str) -> Dialogue:
    """
    A reply and what came before it as a [`Dialogue`], where neither is a row of a data set.

    Args:
        context (`Sequence`): Utterances, of which the last is the speaker's, or messages with `role` and `content`.
        response (`str`): The reply.

    Raises:
        [`FormatError`]: The context holds something that is no turn of a dialogue.
    """
    try:
        *before, _ = FORMATS["context_response"].parse({"context": list(context), "response": response})
    except BadRow as bad:
        raise FormatError(f"the context {context!r} is not a dialogue: {REASONS[str(bad)]}") from None
    for message in before:
        if message.problem:
            raise FormatError(f"the context {context!r} is not a dialogue: {REASONS[message.problem]}")
    spoken = [message for message in before if message.role != "system"]
    system = "\n".join(message.text for message in before if message.role == "system")
    return Dialogue(tuple(m.text for m in spoken), response, tuple(m.role for m in spoken), system or None)


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
    reason = _source_error(row)
    if reason:
        return [Sample(i, None, None, reason)]
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


def _source_error(row: Mapping[str, Any]) -> str | None:
    """What a reader said against the row; other data sets may mean anything by a column of that name."""
    value = row.get(SOURCE_ERROR)
    return value if isinstance(value, str) and value in REASONS else None


def _named_turn(row: Mapping[str, Any], messages: Sequence[Message]) -> int | None:
    """The turn that a row of a conversation which `score` spread out stands for; `None` for every other row."""
    if row.get("row_index") is None:
        return None
    turn = whole_number(row.get("turn"))
    return turn if turn is not None and 0 <= turn < len(messages) else None


def _last_turn(messages: Sequence[Message]) -> int:
    """The last turn that somebody speaks; -1 where nobody does."""
    return max((i for i, message in enumerate(messages) if message.role != "system"), default=-1)


def _listener_turns(messages: Sequence[Message]) -> list[int]:
    """Where the listener speaks; and the last turn, where the speaker was left without a reply (or none spoke)."""
    found = [i for i, message in enumerate(messages) if message.role == "assistant"]
    last = _last_turn(messages)
    return found if last in found else [*found, last]


def _sample(i: int, messages: Sequence[Message], turn: int) -> Sample:
    """The sample whose reply is message number `turn`, or the reason why there is none."""
    if not 0 <= turn < len(messages):
        return Sample(i, None, None, "empty_dialogue")
    reason = _problem(messages[: turn + 1])
    if reason:
        return Sample(i, turn, None, reason)
    before = [m for m in messages[:turn] if m.role != "system"]
    system = "\n".join(m.text for m in messages[:turn] if m.role == "system")
    dialogue = Dialogue(
        tuple(m.text for m in before), messages[turn].text, tuple(m.role for m in before), system or None
    )
    return Sample(i, turn, dialogue, None)


def _problem(messages: Sequence[Message]) -> str | None:
    """Why the last of the messages is no reply that can be scored, `None` where it is one."""
    for message in messages:
        if message.problem:
            return message.problem
    role, response, _ = messages[-1]
    if role != "assistant":
        return "ends_with_speaker"
    last = next((m.text for m in reversed(messages[:-1]) if m.role != "system"), "")
    if not last.strip():
        return "empty_context"
    if not response.strip():
        return "empty_response"
    if max(len(m.text) for m in messages) > MAX_TURN_CHARS:
        return "turn_too_long"
    if any(not m.text.isascii() and has_lone_surrogates(m.text) for m in messages):
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
    """The runs of neighbouring rows with one `conv_id`; a row without belongs to no other."""
    start = 0
    names = [row.get("conv_id") for row in rows]
    for i in range(1, len(names) + 1):
        if i == len(names) or names[i] is None or names[i] != names[start]:
            yield range(start, i)
            start = i


def _conversation_samples(
    fmt: DialogueFormat, rows: Sequence[Mapping[str, Any]], span: range, turns: Turns
) -> list[Sample]:
    """The samples of the utterance rows `span`; what follows a gap or a bad utterance cannot be scored."""
    messages = [_utterance(fmt, rows[i], turn, rows[span[0]].get("speaker_idx")) for turn, i in enumerate(span)]
    wanted = _listener_turns(messages) if turns == "each" else [len(messages) - 1]
    return [_sample(span[turn], messages, turn) for turn in wanted]


def _utterance(fmt: DialogueFormat, row: Mapping[str, Any], turn: int, first_speaker: Any) -> Message:
    """The utterance in a row that ought to be number `turn` (from 0) of its conversation."""
    role = "user" if str(row.get("speaker_idx")) == str(first_speaker) else "assistant"
    reason = _source_error(row)
    if reason:
        return Message(role, "", reason)
    try:
        [message] = fmt.parse(row)
    except BadRow as bad:
        return Message(role, "", str(bad))
    if utterance_number(row.get("utterance_idx")) != turn + 1:
        return Message(role, "", "missing_turns")
    return Message(role, message.text)


def utterance_number(value: Any) -> float:
    """A numbering as files give it (`2`, `2.0` or `"2"`); infinite where it is no number."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.inf
    return math.inf if math.isnan(number) else number


def whole_number(value: Any) -> int | None:
    """A whole number as files give it (`2`, or `2.0` where the column has nulls); `None` for everything else."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int) else None
