"""The judge: any causal language model with a rubric; one forward pass gives the scores, from its logits.

At each answer slot the next-token distribution gives the probability of every value 0 to 10. Their mean is the score,
their standard deviation the spread; the mode is what greedy generation would write. Nothing is generated or parsed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...axes import AXES
from ...data.dialogue import Dialogue
from ...errors import ScorerError
from ...files import digest
from ..base import ScoredBatch
from .answers import VALUES, BatchedJudge, summarised
from .loading import load_judge
from .prompt import JudgePrompt, newest
from .rubric import Rubric, load_rubric, parse_slot
from .tree import Answers, QuestionTexts, Tree, alone, trunks_of, why_no_tree, within_memory


logger = logging.getLogger(__name__)

_LAYOUT = "judge-1"  # changes when the token layout does
_TALK = Dialogue(
    ("I lost my keys today.", "Oh no, where did you last see them?", "At work."), "I hope they turn up!",
    ("user", "assistant", "user"),
)  # fmt: skip


class CausalLMScorer(BatchedJudge):
    """
    Scores dialogues with a causal language model and a rubric.

    Args:
        model (`str`, `os.PathLike` or `PreTrainedModel`):
            A hub id, a folder or a GGUF file, or a model that is loaded already. GGUF weights are dequantized.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): By default the one that comes with the model.
        rubric (`str`, `os.PathLike` or [`Rubric`], *optional*): A text file that replaces the bundled rubric.
        quantization (`str`, *optional*, defaults to `"none"`): `"none"`, `"int8"` or `"nf4"` (bitsandbytes).
        dtype (`str`, *optional*, defaults to `"auto"`):
            `"float32"`, `"bfloat16"`, `"float16"`, or `"auto"`: bfloat16 on a GPU, float32 on a CPU.
        device_map (`str` or `dict`, *optional*): As in `from_pretrained`; by default the first GPU where there is one.
        revision (`str`, *optional*): Branch, tag or commit of a hub id.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether code that comes with a hub model may run.
        gguf_file (`str`, *optional*): The name of a GGUF file in the folder or hub repository.
        token_budget (`int`, *optional*):
            Tokens in one forward pass, padding included; halved where memory runs out. Changes no score. By default
            512 on a CPU (more is no faster) and 32,768 on a GPU.
        max_length (`int`, *optional*):
            Longest text in tokens; by default the model's. A longer dialogue loses its oldest turns. If the last turn
            and the reply do not fit, the sample is unscored.

    Scores do not depend on batch mates, order or batch size: within 1e-4 in float32. In bfloat16, float16 and
    quantized, kernels round differently for other batch shapes, which moves an expected score by some hundredths.

    Raises:
        [`ScorerError`]: The model cannot be loaded or is too short for the rubric, or an option is not valid.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        rubric: str | os.PathLike[str] | Rubric | None = None,
        quantization: str = "none",
        dtype: str = "auto",
        device_map: str | dict[str, Any] | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        gguf_file: str | None = None,
        token_budget: int | None = None,
        max_length: int | None = None,
    ) -> None:
        self.rubric = rubric if isinstance(rubric, Rubric) else load_rubric(rubric)
        self._loaded = judge = load_judge(
            model, tokenizer, quantization, dtype, device_map, revision, trust_remote_code,
            gguf_file, token_budget=token_budget, max_length=max_length,
        )  # fmt: skip
        self.model, self.tokenizer = judge.model, judge.tokenizer
        self.prompt = JudgePrompt(self.tokenizer, self.rubric)
        self.tree = Tree(self.model, self.prompt)
        self.texts = QuestionTexts(self.model, judge.exact, self.prompt)
        self.token_budget = token_budget or judge.token_budget(on_a_cpu=512)
        self.max_length = judge.max_length(max_length)
        if self._room < 64:
            raise ScorerError(
                f"the rubric and the questions take {self.max_length - self._room} of the {self.max_length} tokens "
                "that this model reads, which leaves no room for a dialogue; give a shorter rubric, or a judge that "
                "takes longer texts"
            )
        self._warned = False

    @property
    def _room(self) -> int:
        """How many tokens a dialogue can have."""
        return self.max_length - len(self.prompt.prefix) - self.tree.branch_size

    @cached_property
    def fingerprint(self) -> str:
        """Names the model's content, its precision, the tokens of its prompt and the rubric."""
        asked = digest(repr((self.prompt.prefix, self.prompt.head, self.prompt.chains)))
        judge = f"{self._loaded.content}/{self._loaded.precision}"
        return f"{_LAYOUT}/{judge}/{self.rubric.fingerprint}/asked:{asked}/max:{self.max_length}"

    def score_batches(self, dialogues: Sequence[Dialogue]) -> Iterator[ScoredBatch]:
        """A [`ScoredBatch`] after each forward pass; the dialogues that do not fit the model come first."""
        samples = self._all_fitted(dialogues)
        misfits = [i for i, turns in enumerate(samples) if turns is None]
        if misfits:
            yield _unscored(misfits, "too_long_for_scorer")
        for made, forward_tokens in self._answers(samples):
            lost = [i for i, answer in made.items() if answer is None]
            if lost:
                yield _unscored(lost, "out_of_memory")
                continue
            found = np.stack([answer for answer in made.values() if answer is not None])
            scores, details = summarised(found[:, :, :-1], found[:, :, -1])
            self._check_mass(details)
            tokens = sum(len(turn) for i in made for turn in samples[i] or ())
            yield ScoredBatch(list(made), scores, None, details, tokens, forward_tokens)

    def distributions(self, dialogues: Sequence[Dialogue]) -> tuple[np.ndarray, np.ndarray]:
        """
        The probability of each answer 0 to 10, shape `(n, 2, 11)`, and the greedy answers, shape `(n, 2)`.

        The remaining probability lies on other tokens. NaN where a dialogue does not fit the model or the memory.
        """
        found = np.full((len(dialogues), len(AXES), len(VALUES) + 1), np.nan)
        for answers, _ in self._answers(self._all_fitted(dialogues)):
            for i, answer in answers.items():
                found[i] = np.nan if answer is None else answer
        return found[:, :, :-1], found[:, :, -1]

    def fitted(self, dialogue: Dialogue) -> list[Sequence[int]] | None:
        """The turns' ids, without the oldest where they are too many; `None` where the last two do not fit."""
        return self._all_fitted([dialogue])[0]

    def _all_fitted(self, dialogues: Sequence[Dialogue]) -> list[list[Sequence[int]] | None]:
        return [newest(turns, self._room, least=2) for turns in self.prompt.turns_of_all(dialogues)]

    def _answers(self, samples: Sequence[Sequence[Sequence[int]] | None]) -> Iterator[tuple[Answers, int]]:
        if self.takes_tree:
            return within_memory(self, self.tree, trunks_of(samples))
        return within_memory(self, self.texts, alone(samples))

    def _check_mass(self, details: Mapping[str, np.ndarray]) -> None:
        """Warns, once, where a judge does not answer in the form."""
        mass = float(np.mean([details[f"{axis}_mass"] for axis in AXES]))
        if mass < 0.5 and not self._warned:
            self._warned = True
            logger.warning(
                "only %.0f%% of this judge's probability lies on answers 0 to 10: its scores mean little", 100 * mass
            )

    @cached_property
    def takes_tree(self) -> bool:
        """Whether shared computation gives what the plain texts give: tried once, on a small dialogue."""
        reason = why_no_tree(self.model) or self._tree_differs()
        if reason:
            logger.warning("%s; each question is run as a text of its own, which is correct but slower", reason)
        return reason is None

    def _tree_differs(self) -> str | None:
        turns = self.prompt.turns(_TALK)
        samples = [turns[:2], turns]
        try:
            self.tree.try_packing(alone(samples), self._loaded.exact)
            tree = _collected(within_memory(self, self.tree, trunks_of(samples)))
        except ScorerError:
            raise
        except (TypeError, ValueError, NotImplementedError, AttributeError, RuntimeError) as error:
            return f"this model does not take the branch mask ({type(error).__name__}: {error})"
        one_by_one = (made for trunk in alone(samples) for made in within_memory(self, self.texts, [trunk]))
        apart = np.abs(np.log(tree + 1e-30) - np.log(_collected(one_by_one) + 1e-30)).max()
        if not apart <= (1e-2 if self._loaded.exact else 1.0):
            return f"this model gives other numbers under the branch mask (log probabilities differ by {apart:.2g})"
        return None

    @torch.inference_mode()
    def generate_modes(self, dialogues: Sequence[Dialogue], max_new_tokens: int = 4) -> np.ndarray:
        """
        The slow reference: greedy generation at each slot, one text at a time, and a strict parser.

        Returns the integers answered, shape `(n, 2)`, NaN where the answer is not one.
        """
        found = np.full((len(dialogues), len(AXES)), np.nan)
        for i, turns in enumerate(map(self.fitted, dialogues)):
            for a, chain in enumerate(self.prompt.chains if turns is not None else ()):
                ids = torch.tensor([self.prompt.ids(turns or (), chain.slot)], device=self.model.device)
                output = self.model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id or 0,
                )
                answer = parse_slot(self.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))
                found[i, a] = np.nan if answer is None else answer
        return found


def _unscored(indices: list[int], reason: str) -> ScoredBatch:
    return ScoredBatch(indices, np.full((len(indices), len(AXES)), np.nan), [reason] * len(indices))


def _collected(found: Iterator[tuple[Answers, int]]) -> np.ndarray:
    """The probabilities of all samples, shape `(n, 2, 11)`."""
    answers = {i: answer for part, _ in found for i, answer in part.items()}
    whole = [answer for _, answer in sorted(answers.items()) if answer is not None]
    if len(whole) < len(answers):
        raise ScorerError(
            "memory runs out on a dialogue of four short turns; give a smaller judge, quantization='nf4' or a shorter "
            "rubric"
        )
    return np.stack(whole)[..., :-1]
