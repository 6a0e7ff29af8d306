"""Generates replies in batches sorted by length, saves them as they are made, and shares the work among processes."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ee_trl.data.chat import chat_ids
from ee_trl.errors import EmpathyError, check_count
from ee_trl.files import json_digest


Messages = Sequence[dict[str, str]]

PLAIN: dict[str, Any] = {
    "num_beams": 1, "num_beam_groups": 1, "num_return_sequences": 1, "diversity_penalty": 0.0, "penalty_alpha": None,
    "dola_layers": None, "constraints": None, "force_words_ids": None, "prompt_lookup_num_tokens": None,
    "assistant_early_exit": None, "use_mtp": None, "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "min_length": 0, "min_new_tokens": None,
    "max_time": None, "bad_words_ids": None, "sequence_bias": None, "suppress_tokens": None,
    "begin_suppress_tokens": None, "forced_bos_token_id": None, "forced_eos_token_id": None, "guidance_scale": None,
    "exponential_decay_length_penalty": None, "watermarking_config": None, "min_p": None, "top_h": None,
    "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "return_dict_in_generate": False,
}  # fmt: skip
"""Settings that a model's own generation config may change, and their values here: replies depend only on the model,
the prompt, the end tokens and [`Decoding`]."""

WAY = 3
"""The version of generation; it rises when the same model, prompt and decoding give other replies than before."""


@dataclass(frozen=True)
class Decoding:
    """
    How replies are generated. The model's own generation config, such as its beams, is ignored.

    Args:
        max_new_tokens (`int`, *optional*, defaults to `128`):
            Where a reply is cut off. All but 1 of 45,501 human replies of EmpatheticDialogues are shorter.
        temperature (`float`, *optional*, defaults to `0.0`): 0 is greedy.
        top_p (`float`, *optional*, defaults to `1.0`): The share of the probability that sampling draws from.
        seed (`int`, *optional*, defaults to `0`): The seed of sampling.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("max_new_tokens", self.max_new_tokens)
        check_count("seed", self.seed, 0)
        if not isinstance(self.temperature, (int, float)) or not 0 <= self.temperature < math.inf:
            raise EmpathyError(f"temperature {self.temperature!r} is not valid; valid: 0 (greedy) or a number above 0")
        if not isinstance(self.top_p, (int, float)) or not 0 < self.top_p <= 1:
            raise EmpathyError(f"top_p {self.top_p!r} is not valid; valid: a share above 0, up to 1 (all)")

    def to_dict(self) -> dict[str, Any]:
        """The settings that determine the replies; for greedy decoding only the length."""
        return asdict(self) if self.temperature > 0 else {"max_new_tokens": self.max_new_tokens, "temperature": 0.0}


class Reply(str):
    """A generated reply; `cut_off` says that it has as many tokens as allowed, and no end."""

    cut_off: bool

    def __new__(cls, text: str = "", cut_off: bool = False) -> Reply:
        """The text with the mark."""
        found = super().__new__(cls, text)
        found.cut_off = cut_off
        return found


def generate_replies(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Messages],
    *,
    max_new_tokens: int = 128,
    batch_size: int = 16,
    label: str = "generate",
    decoding: Decoding | None = None,
    stored: StoredReplies | None = None,
    show: bool | None = None,
    shared: bool = False,
) -> list[Reply]:
    """
    One reply for each conversation, in their order and without special tokens.

    `max_new_tokens` is used if there is no `decoding`. `shared` divides the batches among the processes of a launch.
    """
    from tqdm.auto import tqdm

    from ee_trl.online.ranks import every, place

    check_count("batch_size", batch_size)
    decoding = decoding or Decoding(max_new_tokens)
    encoded = [
        encode_prompt(model, tokenizer, prompt, decoding.max_new_tokens, f"dialogue {i} of {len(prompts)}")
        for i, prompt in enumerate(prompts, 1)
    ]
    keys = prompt_keys(prompts)
    replies: list[Reply | None] = [None] * len(encoded) if stored is None else stored.find(keys)
    # all prompts are batched, stored or not, so that a resumed run computes what an uninterrupted one does
    order = sorted(range(len(encoded)), key=lambda i: (-len(encoded[i]), i))  # too large a batch fails at once
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    rank, processes = place() if shared else (0, 1)
    with tqdm(total=len(order), desc=label, unit=" replies", disable=None if show is None else not show) as bar:
        for start in range(0, len(batches), processes):
            # a process without a batch repeats the last one, since a sharded model needs every process
            number = min(start + rank, len(batches) - 1)
            batch = batches[number]
            if any(replies[i] is None for i in batch):
                made = generate_batch(model, tokenizer, [encoded[i] for i in batch], decoding, decoding.seed + number)
                for i, text in zip(batch, made, strict=True):
                    replies[i] = text
                if stored is not None:
                    stored.add([keys[i] for i in batch], made)
            bar.update(sum(map(len, batches[start : start + processes])))
    if processes > 1:
        replies = [next((r for r in found if r is not None), None) for found in zip(*every(replies), strict=True)]
    return [Reply() if reply is None else reply for reply in replies]


def encode_prompt(
    model: Any, tokenizer: Any, prompt: Messages, max_new_tokens: int, where: str = "a conversation"
) -> list[int]:
    """A conversation's ids, with the generation prompt; without its oldest turns if it is too long."""
    if not getattr(tokenizer, "chat_template", None):
        raise EmpathyError(
            "the tokenizer has no chat template, so this model cannot be given a conversation; put the template that "
            "the model was trained with into its folder (chat_template.jinja)"
        )
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 20
    turns = list(prompt)
    while True:
        ids = chat_ids(tokenizer, turns, prompt=True, where=where)
        spoken = [i for i, turn in enumerate(turns) if turn["role"] != "system"]
        if len(ids) + max_new_tokens <= limit or len(spoken) <= 1:
            return ids
        # a template may insist that the speaker begins
        gone = spoken[:2] if len(spoken) > 2 else spoken[:1]
        turns = [turn for i, turn in enumerate(turns) if i not in gone]


def generate_batch(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], decoding: Decoding, seed: int = 0
) -> list[Reply]:
    """The replies to prompts of ids, padded on the left; restores the random generators."""
    import torch
    from transformers import GenerationConfig

    from ee_trl.online.alignment import random_state_kept

    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    how: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if decoding.temperature > 0:
        how = {"do_sample": True, "temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
    known = vars(GenerationConfig())  # what this version of transformers has
    how |= {name: value for name, value in PLAIN.items() if name in known}
    with torch.inference_mode(), random_state_kept(seed):
        how |= {"max_new_tokens": decoding.max_new_tokens, "pad_token_id": pad}
        output = model.generate(input_ids=ids, attention_mask=mask.to(model.device), **how)
    made, stop = output[:, width:], getattr(model.generation_config, "eos_token_id", None)
    ends = torch.tensor(stop if isinstance(stop, list) else [stop] if stop is not None else [], device=made.device)
    cut = (made.shape[1] >= decoding.max_new_tokens) & ~torch.isin(made, ends).any(dim=1)
    texts = tokenizer.batch_decode(made, skip_special_tokens=True)
    return [Reply(text.strip(), cut_off) for text, cut_off in zip(texts, cut.tolist(), strict=True)]


class StoredReplies:
    """
    The replies of one model under one way of decoding, in a JSON-lines file; its name and first line say which.

    Several processes may add to the file at the same time: the one that creates it writes the first line, each batch
    is appended by one write, and readers skip broken lines. Prompt and `made_by` determine a reply.
    """

    def __init__(self, folder: Path, name: str, made_by: dict[str, Any]) -> None:
        short = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:60] or "model"
        self.path = folder / f"{short}-{json_digest(made_by)}.jsonl"
        self.made_by = made_by
        whole = self.path.read_bytes() if self.path.exists() else b""
        self._broken = whole[-1:] not in (b"", b"\n")  # a killed run left half a line
        rows = [row for line in whole.split(b"\n") if (row := _row(line)) is not None]
        self._known = {row["key"]: Reply(row["reply"], row.get("cut_off", False)) for row in rows if "key" in row}

    def find(self, keys: Sequence[str]) -> list[Reply | None]:
        """The reply to each prompt, by its key; `None` where there is none yet."""
        return [self._known.get(key) for key in keys]

    def add(self, keys: Sequence[str], replies: Sequence[str]) -> None:
        """Keeps a batch of replies; they are on the disk when this returns."""
        known = (Reply(reply, getattr(reply, "cut_off", False)) for reply in replies)
        new = dict(zip(keys, known, strict=True))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.path.open("x", encoding="utf-8") as file:
                file.write(json.dumps({"made_by": self.made_by}) + "\n")
        except FileExistsError:
            pass
        rows = ({"key": key, "reply": reply, "cut_off": reply.cut_off} for key, reply in new.items())
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        with self.path.open("ab", buffering=0) as file:
            file.write(("\n" * self._broken + lines).encode())
            os.fsync(file.fileno())
        self._broken = False
        self._known |= new


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:
        return None


def prompt_keys(prompts: Sequence[Any]) -> list[str]:
    """A name for each prompt's content; every repetition of a prompt has a key of its own."""
    seen: Counter[str] = Counter()
    keys = []
    for prompt in prompts:
        content = json_digest(prompt, 24)
        seen[content] += 1
        keys.append(f"{content}-{seen[content]}")
    return keys
