"""The same five dialogues in every row format, with what they are and score by hand: shared by several tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ee_trl.data.dialogue import Dialogue


CONVERSATIONS = (
    ("My dog died, this morning.", "I am so sorry to hear that."),
    ("I failed again.", "What happened? Why?", "I was late.", "Did you oversleep? Or was the bus late?"),
    ("I got the job!", "Great!"),
    ("I am tired, so tired.", "Did you sleep?"),
)
"""Speaker and listener by turns, the speaker first."""

ROW_TURN = [(0, 1), (1, 1), (1, 3), (2, 1), (3, 1)]
"""Conversation and turn of each reply."""

SCORES = [(7.0, 0.0), (3.0, 10.0), (8.0, 10.0), (1.0, 0.0), (3.0, 5.0)]
"""By hand: words in the reply; five times its question marks."""

QUADRANT = ["sensibility", "rationality", "balanced", "low", "tie"]
"""At T = 5."""

DIALOGUES = [
    Dialogue(
        context=CONVERSATIONS[row][:turn],
        response=CONVERSATIONS[row][turn],
        roles=("user", "assistant", "user")[:turn],
    )
    for row, turn in ROW_TURN
]

Rows = list[dict[str, Any]]


def messages(*texts: str) -> list[dict[str, str]]:
    """Turns as TRL writes them, the speaker first."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def sharegpt(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


def _said(speaker: str, listener: str, texts: Sequence[str]) -> Rows:
    return [{"speaker": (speaker, listener)[i % 2], "text": text} for i, text in enumerate(texts)]


def _utterances() -> Rows:
    return [
        {
            "conv_id": f"hit:{row}_conv:{2 * row}",
            "utterance_idx": turn + 1,
            "context": ("sad", "angry", "proud", "tired")[row],
            "prompt": f"Situation_comma_ number {row}",
            "speaker_idx": 10 * row + turn % 2,
            "utterance": text.replace(",", "_comma_"),
            "selfeval": "5|5|5_2|2|5",
            "tags": "",
        }
        for row, texts in enumerate(CONVERSATIONS)
        for turn, text in enumerate(texts)
    ]


def _pairs(make: Any) -> Rows:
    return [make(CONVERSATIONS[row][:turn], CONVERSATIONS[row][turn]) for row, turn in ROW_TURN]


MULTI_TURN: dict[str, Rows] = {
    "messages": [{"messages": messages(*texts)} for texts in CONVERSATIONS],
    "messages as JSON text": [{"messages": json.dumps(messages(*texts))} for texts in CONVERSATIONS],
    "messages in parts": [
        {"messages": [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages(*texts)]}
        for texts in CONVERSATIONS
    ],
    "messages with more keys": [
        {"messages": [{**m, "name": None, "tool_calls": None, "weight": 1} for m in messages(*texts)]}
        for texts in CONVERSATIONS
    ],
    "sharegpt": [{"conversations": sharegpt(*texts)} for texts in CONVERSATIONS],
    "sharegpt as columns": [
        {"conversations": {key: [turn[key] for turn in sharegpt(*texts)] for key in ("from", "value")}}
        for texts in CONVERSATIONS
    ],
    "empathetic_dialogues": _utterances(),
    "dialog": [{"dialog": _said("seeker", "supporter", texts)} for texts in CONVERSATIONS],
    "dialog of texts": [{"dialog": list(texts)} for texts in CONVERSATIONS],
}
SINGLE_TURN: dict[str, Rows] = {
    "prompt and completion": _pairs(
        lambda context, reply: {
            "prompt": messages(*context),
            "completion": [{"role": "assistant", "content": reply}],
        }
    ),
    "context list": _pairs(lambda context, reply: {"context": list(context), "response": reply}),
    "context joined": _pairs(lambda context, reply: {"context": " </s> ".join(context), "response": reply}),
}
WAYS = {**MULTI_TURN, **SINGLE_TURN}
"""Every way to write the dialogues down: name -> rows."""
