"""Conversations become samples: each [`Dialogue`] is one listener turn with what came before it.

[`~ee_trl.data.formats`] turns a row into a conversation. This module says which of its turns are samples
([`samples_of`]), what makes a sample bad ([`REASONS`]), and what a model trains on (prompt and completion).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from ..errors import FormatError, check_choice
from .formats import FORMATS, SYSTEM_COLUMNS, BadRow, DialogueFormat, Message, listed, role_named


SCORED = "scored"
"""The `score_status` of a sample that has scores; every other status is one of [`REASONS`]."""

REASONS = {
    "null_dialogue": "a dialogue column or a turn is null",
    "wrong_type": "a dialogue column holds neither text nor a list of turns, or a list that became text and is broken",
    "not_text_alone": "a turn holds a part that is not text, such as an image",
    "empty_dialogue": "the dialogue has no turns",
    "empty_context": "nothing was said before the reply",
    "empty_response": "the reply is empty or white space",
    "ends_with_speaker": "the dialogue ends in the speaker's turn: there is no reply to score",
    "listener_opens": "the listener opens the conversation: nothing was said before the reply",
    "unknown_role": "a turn's role is not known; the option --map says who is the speaker",
    "too_many_speakers": "more than two people speak in this conversation",
    "missing_turns": "utterances of this conversation are missing before the reply",
    "turn_too_long": "a turn has more than 32,768 characters",
    "invalid_text": "a turn holds lone surrogates, which are not text",
    "invalid_json": "the line of the file is not JSON, has a key twice, or is nested too deeply",
    "too_many_fields": "the line of the csv file has more fields than its header",
    "too_long_for_scorer": "the last turn and the reply do not fit into the context of the scorer's model",
    "out_of_memory": "this dialogue alone needs more memory than there is",
    "not_english": "the reply is not English, and the scorer was told to leave such replies unscored",
    "scorer_gave_none": "the scorer gave no number",
    "score_out_of_range": "the scorer gave a number outside [0, 10]",
    "answer_not_in_form": "the judge's answer is not in the rubric's form",
    "server_timeout": "the server did not answer in time; the next run asks it",
    "server_unavailable": "the server could not be reached, was overloaded or failed; the next run asks it",
    "server_refused": "the server refused this sample: it is too long for the model, filtered or not valid",
    "server_malformed": "the server's answer is not a chat completion, or lacks what was requested",
    "server_cut_off": "the answer is cut off: raise max_tokens, or turn off the thinking of the judge",
    "server_not_asked": "the server failed on many samples before this one, so it was not asked; the next run asks it",
}
"""Why a sample can be unscored, by name."""

NOT_ASKED = "server_not_asked"
"""One of [`REASONS`]: the scorer was not asked for the sample."""

UNANSWERED = (NOT_ASKED, "server_timeout", "server_unavailable")
"""The [`REASONS`] by which nothing was answered: the next run always asks again."""

NOTHING_TO_SCORE = ("ends_with_speaker", "listener_opens", "not_english")
"""The [`REASONS`] that are not failures: the data are valid, but there is no reply that was to be scored."""

MAX_TURN_CHARS = 32_768
SOURCE_ERROR = "source_error"
"""A file reader writes one of [`REASONS`] into this column where it could not read the row as it stands."""

Turns = Literal["each", "last"]


@dataclass(frozen=True, slots=True)
class Dialogue:
    """
    One sample: a listener's reply with what came before it.

    Args:
        context (`tuple[str, ...]`): The utterances before the reply, oldest first; the last is normally the speaker's.
        response (`str`): The listener's reply; this is what is scored.
        roles (`tuple[str, ...]`): `"user"` (speaker) or `"assistant"` (listener) for each utterance of `context`.
        system (`str`, *optional*): The system message; a model trains on it, but it is not scored.
    """

    context: tuple[str, ...]
    response: str
    roles: tuple[str, ...]
    system: str | None = None

    @property
    def last_speaker_turn(self) -> str:
        """The speaker's last utterance before the reply, or `""`."""
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
    """A listener turn found in row number `row`: a `dialogue`, or the `reason` why it cannot be scored."""

    row: int
    turn: int | None
    dialogue: Dialogue | None
    reason: str | None


def check_turns(turns: str) -> None:
    """Raises [`FormatError`] unless `turns` is `"each"` or `"last"`."""
    check_choice("turns", turns, get_args(Turns), FormatError)


def dialogue_of(context: str | Sequence[Any], response: str) -> Dialogue:
    """A [`Dialogue`] from a reply and what came before it: a text, texts that alternate, or messages."""
    try:
        given = context if context is None or isinstance(context, str) else list(context)
        *before, _ = FORMATS["context_response"].parse({"context": given, "response": response})
        for message in before:
            if message.problem:
                raise BadRow(message.problem)
    except BadRow as bad:
        raise FormatError(f"the context {context!r} is not a dialogue: {REASONS[str(bad)]}") from None
    return _dialogue(before, response)


def _dialogue(before: Sequence[Message], response: str) -> Dialogue:
    spoken = [message for message in before if message.role != "system"]
    system = "\n".join(message.text for message in before if message.role == "system")
    return Dialogue(tuple(m.text for m in spoken), response, tuple(m.role for m in spoken), system or None)


def samples_of(fmt: DialogueFormat, rows: Sequence[Mapping[str, Any]], turns: Turns = "each") -> list[Sample]:
    """
    The samples of a batch of rows, in order.

    Returns `list[Sample]`: at least one for every row, so that nothing is lost. Utterance rows give one for every
    listener utterance, and one for a speaker's last utterance without an answer.
    """
    if not fmt.utterance_rows:
        return [sample for i, row in enumerate(rows) for sample in row_samples(fmt, i, row, turns)]
    found: list[Sample] = []
    for span in conversations(rows):
        first = 0 if utterance_number(rows[span.start].get("utterance_idx")) == 0 else 1
        speakers: dict[str, int] = {}
        messages = [_utterance(fmt, rows[i], number, speakers) for number, i in enumerate(span, first)]
        system = _system(rows[span.start])
        found += [
            sample_at(span[turn], messages, turn, fmt.multi_turn, system) for turn in turns_wanted(messages, turns)
        ]
    return found


def row_samples(fmt: DialogueFormat, i: int, row: Mapping[str, Any], turns: Turns) -> list[Sample]:
    """The samples of row number `i`, which is no utterance."""
    try:
        messages = _parsed(fmt, row)
        system = _system(row)
    except BadRow as bad:
        return [Sample(i, None, None, str(bad))]
    turn = _named_turn(row, messages) if fmt.multi_turn else None
    wanted = turns_wanted(messages, turns if fmt.multi_turn else "last") if turn is None else [turn]
    return [sample_at(i, messages, turn, fmt.multi_turn, system) for turn in wanted]


def _system(row: Mapping[str, Any]) -> list[Message]:
    """The system message that a column of its own holds, if any."""
    for name in SYSTEM_COLUMNS:
        value: Any = row.get(name)
        with suppress(BadRow):  # a broken list is a text
            value = (listed(value) or value) if isinstance(value, str) else value
        texts: Any = value if isinstance(value, (list, tuple)) else [value]
        if all(isinstance(text, str) for text in texts) and (text := "\n".join(texts)).strip():
            return [Message("system", text)]
    return []


def _parsed(fmt: DialogueFormat, row: Mapping[str, Any]) -> list[Message]:
    """The turns of a row; raises [`BadRow`] if the file reader or the parser rejected it."""
    error = row.get(SOURCE_ERROR)
    if isinstance(error, str) and error in REASONS:  # a column of this name may be the user's own
        raise BadRow(error)
    return fmt.parse(row)


def _named_turn(row: Mapping[str, Any], messages: Sequence[Message]) -> int | None:
    """The turn that a row stands for, if `score` made the row from a conversation."""
    if row.get("row_index") is None:
        return None
    turn = whole_number(row.get("turn"))
    return turn if turn is not None and 0 <= turn < len(messages) else None


def turns_wanted(messages: Sequence[Message], turns: Turns) -> list[int]:
    """The last turn that is not a system message (-1 without one); with `"each"`, also all listener turns."""
    last = max((i for i, message in enumerate(messages) if message.role != "system"), default=-1)
    found = [i for i, message in enumerate(messages) if message.role == "assistant"] if turns == "each" else []
    return found if last in found else [*found, last]


def sample_at(
    i: int, messages: Sequence[Message], turn: int, multi_turn: bool, system: Sequence[Message] = ()
) -> Sample:
    """The sample whose reply is message number `turn`, or the reason why there is none."""
    if not 0 <= turn < len(messages):
        return Sample(i, None, None, "empty_dialogue")
    said = messages[: turn + 1]
    if system and not any(message.role == "system" for message in said):
        said = [*system, *said]
    reason = _problem(said, multi_turn)
    if reason:
        return Sample(i, turn, None, reason)
    return Sample(i, turn, _dialogue(said[:-1], said[-1].text), None)


def _problem(messages: Sequence[Message], multi_turn: bool) -> str | None:
    """Why the last of the messages cannot be scored as a reply, if it cannot."""
    for message in messages:
        if message.problem:
            return message.problem
    role, response, _ = messages[-1]
    if role != "assistant":
        return "ends_with_speaker"
    if multi_turn and not any(message.role == "user" for message in messages):
        return "listener_opens"
    last = next((m.text for m in reversed(messages[:-1]) if m.role != "system"), None)
    if not (last and last.strip()):
        return "empty_context"
    if not response.strip():
        return "empty_response"
    if max(len(m.text) for m in messages) > MAX_TURN_CHARS:
        return "turn_too_long"
    if any(has_lone_surrogates(m.text) for m in messages):
        return "invalid_text"
    return None


def has_lone_surrogates(text: str) -> bool:
    """Whether `text` holds half of a surrogate pair, so that it cannot be encoded."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def conversations(rows: Sequence[Mapping[str, Any]]) -> Iterator[range]:
    """Runs of neighbouring rows with the same `conv_id`; a row without one is a run of its own."""
    start = 0
    names = [row.get("conv_id") for row in rows]
    for i in range(1, len(names) + 1):
        if i == len(names) or names[i] is None or names[i] != names[start]:
            yield range(start, i)
            start = i


def _utterance(fmt: DialogueFormat, row: Mapping[str, Any], number: int, speakers: dict[str, int]) -> Message:
    """The utterance of a row that should have this number; the roles of people without one follow from their order."""
    name = str(row.get("speaker_idx"))
    place = speakers.setdefault(name, len(speakers))
    taken = [role_named(speaker) for speaker in speakers]
    second = "user" in taken or (place > 0 and "assistant" not in taken)
    role = role_named(name) or ("assistant" if second else "user")
    try:
        [message] = _parsed(fmt, row)
    except BadRow as bad:
        return Message(role, "", str(bad))
    if utterance_number(row.get("utterance_idx")) != number:
        return Message(role, "", "missing_turns")
    problem = "unknown_role" if name == "None" else "too_many_speakers" if place > 1 else None
    return Message(role, message.text, problem)


def utterance_number(value: Any) -> float:
    """A number as files give it (`2`, `2.0` or `"2"`); infinity for everything else."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.inf
    return math.inf if math.isnan(number) else number


def whole_number(value: Any) -> int | None:
    """A whole number as files give it (`2`, or `2.0` in a column with nulls); `None` for everything else."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int) else None
