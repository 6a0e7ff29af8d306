"""A causal language model that chooses: at each question's answer slot one forward pass reads every option's logit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ...errors import ScorerError
from .chooser import LAYOUT, SLOT_HEADER, Question, candidate_line
from .loading import check_options, content_of, load_judge, precision_of, weights_of
from .plain import last_logits, takes_padding
from .prompt import around_dialogue, control_tokens, turn_line


class CausalLMChooser:
    """
    A causal language model, read from its logits.

    Args:
        model (`str`, `os.PathLike` or `PreTrainedModel`): A hub id or folder, or a model that is loaded already.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): By default the one that comes with the model.
        quantization, dtype, device_map, revision, trust_remote_code (*optional*): As of
            [`~ee_trl.CausalLMScorer`].
        token_budget (`int`, *optional*): Tokens in one forward pass; changes no answer. By default 2,048 on a CPU and
            32,768 on a GPU.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        quantization: str = "none",
        dtype: str = "auto",
        device_map: Any = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        token_budget: int | None = None,
    ) -> None:
        check_options(quantization, dtype, token_budget=token_budget)
        self.quantization = quantization
        if hasattr(model, "forward"):
            if tokenizer is None:
                raise ScorerError("a model that is loaded already needs its tokenizer: tokenizer=...")
            self.model, self.tokenizer, self._content = model, tokenizer, weights_of(model)
        else:
            loaded = load_judge(str(model), tokenizer, quantization, dtype, device_map, revision, trust_remote_code)
            self.model, self.tokenizer = loaded
            self._content = content_of(str(model), self.model)
        self._control = frozenset(control_tokens(self.tokenizer).values())
        self.token_budget = token_budget or (32_768 if self.model.device.type == "cuda" else 2_048)
        self.max_length = getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 1 << 20

    @cached_property
    def fingerprint(self) -> str:
        """Names the model's content and its precision; what it is asked is the caller's."""
        return f"{LAYOUT}/{self._content}/{precision_of(self.model, self.quantization)}"

    def choose(self, questions: Sequence[Question], options: Sequence[str]) -> np.ndarray:
        """Probabilities of shape `(n, options)` over the options alone; NaN where a question is too long."""
        chances = np.full((len(questions), len(options)), np.nan)
        texts = [self._ids_of(question, options) for question in questions]
        order = sorted((i for i, text in enumerate(texts) if text), key=lambda i: -len(texts[i][0]))  # type: ignore[index]
        start = 0
        while start < len(order):
            width = len(texts[order[start]][0])  # type: ignore[index]
            batch = order[start : start + max(1, self.token_budget // width)]
            ids = [texts[i][0] for i in batch]  # type: ignore[index]
            padded = len(set(map(len, ids))) == 1 or self._takes_padding
            logits = last_logits(self.model, ids, keep=1, padded=padded)[:, -1]
            for row, i in enumerate(batch):
                first = logits[row, list(texts[i][1])]  # type: ignore[index]
                chances[i] = torch.softmax(first, dim=-1).double().cpu().numpy()
            start += len(batch)
        return chances

    @cached_property
    def _takes_padding(self) -> bool:
        exact = self.quantization == "none" and self.model.dtype == torch.float32
        return takes_padding(self.model, self._trusted("How kind is the last reply? Answer with one word."), exact)

    def _ids_of(self, question: Question, options: Sequence[str]) -> tuple[list[int], tuple[int, ...]] | None:
        """The ids up to the answer slot, and the id of each option; `None` where the text is too long."""
        before, after = around_dialogue(self.tokenizer, question.instruction.strip())
        slot, firsts = self._slot(question.slot, tuple(options))
        head, tail = self._trusted(before), [*self._trusted(f"{after}{SLOT_HEADER}\n"), *slot]
        turns = [self._untrusted(turn_line(role, text)) for role, text in question.turns]
        judged = [i for label, text in question.candidates for i in self._untrusted(candidate_line(label, text))]
        room = self.max_length - len(head) - len(tail) - len(judged)
        while turns and sum(map(len, turns)) > room:
            turns = turns[1:]
        if room < 0 or (question.turns and not turns):
            return None
        return [*head, *(i for turn in turns for i in turn), *judged, *tail], firsts

    def _slot(self, slot: str, options: tuple[str, ...]) -> tuple[list[int], tuple[int, ...]]:
        """The ids of the slot, and the one id of each option after it."""
        joined = [self._trusted(f"{slot} {option}") for option in options]
        # where a space and an option are one token for some options alone, the space goes to the slot
        apart = [[*self._trusted(f"{slot} "), *self._trusted(option)] for option in options]
        for answers in (joined, apart):
            heads, lasts = {tuple(ids[:-1]) for ids in answers}, tuple(ids[-1] for ids in answers)
            if len(heads) == 1 and len(set(lasts)) == len(options):
                return list(heads.pop()), lasts
        raise ScorerError(
            f"this tokenizer does not write each of the options {', '.join(options)} as one token after {slot!r}; "
            "give another judge"
        )

    def _trusted(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _untrusted(self, text: str) -> list[int]:
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [i for i in ids if i not in self._control]
