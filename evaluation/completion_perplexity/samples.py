"""Prompt-completion samples, checked, and tokenised by the rules of TRL's `SFTTrainer`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


Message = dict[str, Any]
Text = str | list[Message]


class TokenizedSample(NamedTuple):
    """The ids of prompt and completion in one sequence, and the position of the completion's first token in it."""

    ids: list[int]
    start: int
    truncated: bool = False

    @property
    def scored(self) -> int:
        """How many tokens count: the completion's, without one at position 0, which no token comes before."""
        return len(self.ids) - max(self.start, 1) if len(self.ids) > self.start else 0


def check_samples(prompts: Any, completions: Any, start: int = 0) -> tuple[list[Text], list[Text]]:
    """
    Both columns as lists, refused unless each pair is two strings or two lists of messages, with a completion.

    Args:
        prompts (`Iterable[str]` or `Iterable[list[dict]]`):
            Plain texts, or conversations: lists of `{"role": ..., "content": ...}`.
        completions (`Iterable[str]` or `Iterable[list[dict]]`):
            What follows each prompt, in the same form.
        start (`int`, *optional*, defaults to `0`):
            How many samples were added before these: messages count from there.

    Raises:
        ValueError: no samples, different numbers of prompts and completions, or an empty completion.
        TypeError: something is neither a string nor a list of messages, or a pair mixes the two.
    """
    columns: list[list[Text]] = []
    for name, column in (("prompts", prompts), ("completions", completions)):
        if column is None:
            raise ValueError(f"{name}: none given.")
        if isinstance(column, str | dict) or not isinstance(column, Iterable):
            raise TypeError(f"{name} must be a list, one entry per sample, got {type(column).__name__}.")
        columns.append([_check_text(f"{name}[{start + i}]", text) for i, text in enumerate(column)])
    if len(columns[0]) != len(columns[1]):
        raise ValueError(
            f"every prompt needs its completion: got {len(columns[0])} prompts and {len(columns[1])} completions."
        )
    if not columns[0]:
        raise ValueError("prompts and completions: 0 samples given, at least 1 needed.")
    for i, (prompt, completion) in enumerate(zip(*columns, strict=True), start=start):
        if isinstance(prompt, str) != isinstance(completion, str):
            raise TypeError(f"prompts[{i}] and completions[{i}] must both be strings or both be lists of messages.")
        if not _has_content(completion):
            raise ValueError(f"completions[{i}] is empty: {completion!r}.")
    return columns[0], columns[1]


def _check_text(name: str, text: Any) -> Text:
    if isinstance(text, str):
        return text
    if not isinstance(text, list | tuple):
        raise TypeError(f"{name} must be a string or a list of messages, got {type(text).__name__}: {text!r}.")
    for message in text:
        if not isinstance(message, dict) or "role" not in message or "content" not in message:
            raise TypeError(f"{name} must hold messages with 'role' and 'content', got {message!r}.")
    return [dict(message) for message in text]


def _has_content(completion: Text) -> bool:
    if isinstance(completion, str):
        return bool(completion.strip())
    # the content of a message may be a string, or a list of parts
    contents = [message["content"] for message in completion]
    return any(bool(content.strip()) if isinstance(content, str) else bool(content) for content in contents)


def tokenize_sample(
    prompt: Text,
    completion: Text,
    tokenizer: Any,
    *,
    max_length: int | None = None,
    add_eos: bool = True,
    chat_template_kwargs: dict[str, Any] | None = None,
) -> TokenizedSample:
    """
    The token ids of one sample, by the rules of TRL's `SFTTrainer` for a prompt-completion data set.

    Conversations go through the chat template twice: the prompt with `add_generation_prompt=True`, and prompt and
    completion together without. Plain text is the prompt and the completion joined, closed by the end-of-sequence
    token unless it is there already. The completion starts where the two sequences part, which is before the end of
    the prompt where the tokenizer merges across the border. Truncation keeps the start of the sequence.

    Args:
        prompt (`str` or `list[dict]`):
            The prompt.
        completion (`str` or `list[dict]`):
            The completion, in the same form.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer.
        max_length (`int`, *optional*):
            Keep so many tokens at most.
        add_eos (`bool`, *optional*, defaults to `True`):
            Whether the end-of-sequence token is appended to plain text. A chat template closes its own turns.
        chat_template_kwargs (`dict`, *optional*):
            Passed on to the chat template.

    Returns:
        [`TokenizedSample`]

    Raises:
        TypeError: one is a string and the other is not.
    """
    if isinstance(prompt, str) and isinstance(completion, str):
        eos = tokenizer.eos_token if add_eos else None
        if eos and not completion.endswith(eos):
            completion = f"{completion}{eos}"
        prompt_ids = tokenizer(text=prompt)["input_ids"]
        ids = tokenizer(text=prompt + completion)["input_ids"]
    elif isinstance(prompt, list) and isinstance(completion, list):
        template = {"tokenize": True, "return_dict": True, **(chat_template_kwargs or {})}
        prompt_ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, **template)["input_ids"]
        ids = tokenizer.apply_chat_template(prompt + completion, **template)["input_ids"]
    else:
        raise TypeError("prompt and completion must both be strings or both be lists of messages.")
    start = common_prefix(prompt_ids, ids)
    truncated = max_length is not None and len(ids) > max_length
    return TokenizedSample(list(ids[:max_length]), start, truncated)


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """
    How many leading ids two sequences share.

    Example:

    >>> common_prefix([1, 2, 3], [1, 2, 4, 5])
    2
    """
    for i, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return i
    return min(len(first), len(second))
