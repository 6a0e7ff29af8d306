"""The judge: any causal language model, asked by the rubric, read from its logits in one forward pass.

At each answer slot the next-token distribution gives the probability of every value 0 to 10; their mean is the score,
their standard deviation the spread, and the most probable answer, token by token as greedy generation takes it, the
mode. Nothing is generated and nothing parsed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...axes import AXES
from ...data.dialogue import Dialogue
from ...errors import ScorerError
from ..base import ScoredBatch
from .answers import DETAILS, VALUES, gathered, summarised
from .loading import check_options, content_of, load_judge, precision_of, weights_of
from .memory import within_memory
from .plain import last_logits, no_branch_mask, takes_padding
from .prompt import Chain, JudgePrompt
from .rubric import Rubric, load_rubric, parse_slot
from .tree import Branch, Trunk, batches_of, halves_of, shared_cache, tree_inputs, trunks_of


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.cache_utils import Cache

logger = logging.getLogger(__name__)

_Turns = list[tuple[int, ...]]
_Answers = dict[int, np.ndarray | None]  # by the number of the sample; None where memory ran out on it alone

_LAYOUT = "judge-1"  # changes when the token layout does


class CausalLMScorer:
    """
    Scores dialogues with a causal language model and a rubric.

    Args:
        model (`str`, `os.PathLike` or `PreTrainedModel`):
            A hub id or folder, or a model that is loaded already.
        tokenizer (`PreTrainedTokenizerBase`, *optional*):
            By default the one that comes with the model.
        rubric (`str`, `os.PathLike` or [`Rubric`], *optional*):
            A text file in the place of the bundled rubric.
        quantization (`str`, *optional*, defaults to `"none"`):
            `"none"`, `"int8"` or `"nf4"` (bitsandbytes).
        dtype (`str`, *optional*, defaults to `"auto"`):
            `"float32"`, `"bfloat16"`, `"float16"`, or `"auto"`: bfloat16 on a GPU, float32 on a CPU.
        device_map (`str` or `dict`, *optional*):
            As in `from_pretrained`; by default the first GPU where there is one.
        revision (`str`, *optional*):
            Of a hub id.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether code that comes with a hub model may run.
        token_budget (`int`, *optional*):
            Tokens in one forward pass, padding included; halved where memory runs out. Changes no score. By default
            512 on a CPU (more would be padding, and no faster) and 32,768 on a GPU.
        max_length (`int`, *optional*):
            Longest text in tokens; by default the model's. A longer dialogue loses its oldest turns; one whose last
            turn and reply do not fit is unscored.

    Scores do not depend on batch mates, order or batch size: within 1e-4 in float32. In bfloat16, float16 and
    quantized, kernels round differently for other batch shapes, which moves an expected score by some hundredths.

    Raises:
        [`ScorerError`]: The model cannot be loaded or is too short for the rubric, or an option is unknown.
    """

    details = DETAILS

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
        token_budget: int | None = None,
        max_length: int | None = None,
    ) -> None:
        check_options(quantization, dtype, token_budget=token_budget, max_length=max_length)
        self.rubric = rubric if isinstance(rubric, Rubric) else load_rubric(rubric)
        self.quantization = quantization
        if isinstance(model, (str, os.PathLike)):
            loaded = load_judge(
                os.fspath(model), tokenizer, quantization, dtype, device_map, revision, trust_remote_code
            )
            self.model, self.tokenizer = loaded
            self._content = content_of(os.fspath(model), self.model)
        else:
            if tokenizer is None:
                raise ScorerError("a model that is loaded already needs its tokenizer: tokenizer=...")
            self.model, self.tokenizer = model, tokenizer
            self._content = weights_of(model)
        self.prompt = JudgePrompt(self.tokenizer, self.rubric)
        self.branch = Branch.of(self.prompt.head, self.prompt.chains)
        self.token_budget = token_budget or (32_768 if self.model.device.type == "cuda" else 512)
        limits = [max_length, getattr(self.model.config.get_text_config(), "max_position_embeddings", None)]
        self.max_length = min((n for n in limits if n), default=1 << 20)
        asked = len(self.prompt.prefix) + len(self.branch.tokens)
        if self.max_length < asked + 64:
            raise ScorerError(
                f"the rubric and the questions take {asked} tokens of this model's {self.max_length}, which leaves no "
                "room for a dialogue; give a shorter rubric, or a judge that takes longer texts"
            )

    @cached_property
    def fingerprint(self) -> str:
        """Names the model's content, its precision, the tokens it is asked with and the rubric."""
        from hashlib import sha256

        asked = sha256(repr((self.prompt.prefix, self.prompt.head, self.prompt.chains)).encode()).hexdigest()[:12]
        precision = precision_of(self.model, self.quantization)
        return f"{_LAYOUT}/{self._content}/{precision}/{self.rubric.fingerprint}/asked:{asked}/max:{self.max_length}"

    # ---- scoring

    def score(self, dialogues: Sequence[Dialogue]) -> np.ndarray:
        """Expected values, shape `(n, 2)`: sensibility, rationality; NaN where a dialogue does not fit the model."""
        return self.score_with_details(dialogues)[0]

    def score_with_details(self, dialogues: Sequence[Dialogue]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The scores, and for each of [`DETAILS`] an array of shape `(n,)`."""
        return gathered(self.score_batches(dialogues), len(dialogues))

    def score_batches(self, dialogues: Sequence[Dialogue]) -> Iterator[ScoredBatch]:
        """A [`ScoredBatch`] after each forward pass; the dialogues that do not fit the model come first."""
        samples = [self._fitted(self.prompt.turns(dialogue)) for dialogue in dialogues]
        misfits = [i for i, turns in enumerate(samples) if turns is None]
        if misfits:
            nothing = np.full((len(misfits), len(AXES)), np.nan)
            yield ScoredBatch(misfits, nothing, ["too_long_for_scorer"] * len(misfits))
        for made, forward_tokens in self._answers(samples):
            lost = [i for i, answer in made.items() if answer is None]
            if lost:
                yield ScoredBatch(lost, np.full((len(lost), len(AXES)), np.nan), ["out_of_memory"] * len(lost))
            answers = {i: answer for i, answer in made.items() if answer is not None}
            if not answers:
                continue
            indices = list(answers)
            found = np.stack(list(answers.values()))
            scores, details = summarised(found[:, :, :-1], found[:, :, -1])
            self._look_at(details)
            text_tokens = sum(len(turn) for i in indices for turn in samples[i] or ())
            yield ScoredBatch(indices, scores, None, details, text_tokens, forward_tokens)

    def _look_at(self, details: Mapping[str, np.ndarray]) -> None:
        """Warns, once, where a judge does not answer in the form: its scores mean little."""
        mass = float(np.mean([details[f"{axis}_mass"] for axis in AXES]))
        if mass < 0.5 and not self._warned:
            self._warned = True
            logger.warning(
                "only %.0f%% of this judge's probability lies on answers 0 to 10: its scores mean little", 100 * mass
            )

    _warned = False

    def distributions(self, dialogues: Sequence[Dialogue]) -> tuple[np.ndarray, np.ndarray]:
        """
        What the judge answers.

        Returns:
            `tuple`: the probability of each answer 0 to 10, shape `(n, 2, 11)`, whose sum is what lay on answers at
            all, and the greedy answers, shape `(n, 2)`; NaN where a dialogue does not fit the model or the memory.
        """
        found = np.full((len(dialogues), len(AXES), len(VALUES) + 1), np.nan)
        for answers, _ in self._answers([self._fitted(self.prompt.turns(dialogue)) for dialogue in dialogues]):
            for i, answer in answers.items():
                found[i] = np.nan if answer is None else answer
        return found[:, :, :-1], found[:, :, -1]

    def _answers(self, samples: Sequence[_Turns | None]) -> Iterator[tuple[_Answers, int]]:
        """Answers as they are made: number of the sample -> shape `(2, 12)`; and the tokens of the forward pass."""
        if self.takes_tree:
            return self._tree_answers(trunks_of(samples))
        return self._plain_answers([(i, turns) for i, turns in enumerate(samples) if turns is not None])

    def _fitted(self, turns: list[tuple[int, ...]]) -> list[tuple[int, ...]] | None:
        """The turns, without the oldest where they are too many for the model; `None` where even two are."""
        room = self.max_length - len(self.prompt.prefix) - len(self.branch.tokens)
        while sum(map(len, turns)) > room and len(turns) > 2:
            turns = turns[1:]
        return turns if sum(map(len, turns)) <= room else None

    def _tree_answers(self, trunks: list[Trunk]) -> Iterator[tuple[_Answers, int]]:
        def forward(batch: list[Trunk]) -> tuple[_Answers, int]:
            inputs = tree_inputs(batch, self.branch, len(self.prompt.prefix))
            logits = self._tree_logits(inputs)
            answers: _Answers = {
                sample: self._read(logits[row, n])
                for row, trunk in enumerate(batch)
                for n, (sample, _) in enumerate(trunk.samples)
            }
            return answers, inputs.input_ids.numel()

        def give_up(trunk: Trunk) -> _Answers:
            if len(trunk.samples) == 1:
                return {trunk.samples[0][0]: None}
            trunks.extend(halves_of(trunk))
            return {}

        return within_memory(
            self, lambda budget: batches_of(trunks, len(self.branch.tokens), budget), forward, give_up
        )

    @torch.inference_mode()
    def _tree_logits(self, inputs: Any) -> torch.Tensor:
        """Logits of shape `(b, most, reads, vocabulary)`, float32."""
        device, mask = self.model.device, inputs.mask
        if self.model.config._attn_implementation == "eager":
            mask = torch.zeros(mask.shape, dtype=self.model.dtype).masked_fill(
                ~mask, torch.finfo(self.model.dtype).min
            )
        output = self.model(
            input_ids=inputs.input_ids.to(device),
            position_ids=inputs.position_ids.to(device),
            attention_mask=mask.to(device),
            past_key_values=self._prefix_cache,
            use_cache=True,
            logits_to_keep=inputs.keep.to(device),
        )
        reads = sum(map(len, self.branch.reads))
        return output.logits.float().unflatten(1, (-1, reads))

    @cached_property
    def _prefix_cache(self) -> Cache:
        return shared_cache(self.model, self.prompt.prefix)

    def _plain_answers(
        self, samples: list[tuple[int, _Turns]], padded: bool | None = None
    ) -> Iterator[tuple[_Answers, int]]:
        """Every question as a text of its own: right for any model, and what the tree is checked against."""
        padded = self._takes_padding if padded is None else padded
        texts = [
            (i, a, [*self.prompt.prefix, *(t for turn in turns for t in turn), *self.prompt.head, *chain.tokens])
            for i, turns in samples
            for a, chain in enumerate(self.prompt.chains)
        ]
        texts.sort(key=lambda text: -len(text[2]))
        halves: dict[int, dict[int, np.ndarray]] = {}  # samples of which one question was answered
        lost: set[int] = set()  # samples of which one question was given up

        def batches(budget: int) -> Iterator[list[tuple[int, int, list[int]]]]:
            start = 0
            while start < len(texts):
                size = max(1, budget // len(texts[start][2]))
                yield texts[start : start + size]
                start += size

        def forward(batch: list[tuple[int, int, list[int]]]) -> tuple[_Answers, int]:
            logits = last_logits(self.model, [text for _, _, text in batch], keep=2, padded=padded)
            for row, (i, a, _) in enumerate(batch):
                chain = self.prompt.chains[a]
                halves.setdefault(i, {})[a] = _answer(chain, logits[row, -chain.reads :])
            whole = [i for i in dict.fromkeys(i for i, _, _ in batch) if len(halves[i]) == len(AXES)]
            answers: _Answers = {
                i: np.stack([found[a] for a in range(len(AXES))]) for i in whole if (found := halves.pop(i))
            }
            return answers, len(batch) * len(batch[0][2])

        def give_up(text: tuple[int, int, list[int]]) -> _Answers:
            known, i = len(lost), text[0]
            lost.add(i)
            return {i: None} if len(lost) > known else {}

        return within_memory(self, batches, forward, give_up)

    def _read(self, logits: torch.Tensor) -> np.ndarray:
        """Answers of shape `(2, 12)` from one branch's logits of shape `(reads, vocabulary)`; see [`_answer`]."""
        parts = torch.split(logits, [chain.reads for chain in self.prompt.chains])
        return np.stack([_answer(chain, part) for chain, part in zip(self.prompt.chains, parts, strict=True)])

    # ---- does this model take the tree?

    @cached_property
    def takes_tree(self) -> bool:
        """Whether shared computation gives what the plain texts give: tried once, on a small dialogue."""
        reason = self._no_tree_because()
        if reason:
            logger.warning("%s; each question is run as a text of its own, which is right but slower", reason)
        return reason is None

    @cached_property
    def _exact(self) -> bool:
        return self.quantization == "none" and self.model.dtype == torch.float32

    @cached_property
    def _takes_padding(self) -> bool:
        return takes_padding(self.model, self.prompt.prefix[-64:], self._exact)

    @torch.inference_mode()
    def _no_tree_because(self) -> str | None:
        reason = no_branch_mask(self.model)
        if reason:
            return reason
        talk = ("I lost my keys today.", "Oh no, where did you last see them?", "At work.", "I hope they turn up!")
        samples = [
            [self.prompt.turn_ids(("user", "assistant")[i % 2], t) for i, t in enumerate(talk[:n])] for n in (2, 4)
        ]
        try:
            tree = _gathered(self._tree_answers(trunks_of(samples)))
        except ScorerError:
            raise
        except (TypeError, ValueError, NotImplementedError, AttributeError, RuntimeError) as error:
            return f"this model does not take the branch mask ({type(error).__name__}: {error})"
        plain = _gathered(self._plain_answers(list(enumerate(samples)), padded=False))
        apart = np.abs(np.log(tree[..., :-1] + 1e-30) - np.log(plain[..., :-1] + 1e-30)).max()
        if not apart <= (1e-2 if self._exact else 1.0):
            return f"this model gives other numbers under the branch mask (log probabilities differ by {apart:.2g})"
        return None

    # ---- the slow reference

    @torch.inference_mode()
    def generate_modes(self, dialogues: Sequence[Dialogue], max_new_tokens: int = 4) -> np.ndarray:
        """
        The reference: greedy generation at each slot, one text at a time, and a strict parser.

        Returns:
            `np.ndarray` of shape `(n, 2)`: the integers answered, NaN where the answer is not one.
        """
        found = np.full((len(dialogues), len(AXES)), np.nan)
        for i, dialogue in enumerate(dialogues):
            turns = self._fitted(self.prompt.turns(dialogue))
            for a, chain in enumerate(self.prompt.chains if turns is not None else ()):
                slot = chain.tokens[: len(chain.tokens) - chain.reads + 1]
                text = [*self.prompt.prefix, *(t for turn in turns or () for t in turn), *self.prompt.head, *slot]
                ids = torch.tensor([text], device=self.model.device)
                output = self.model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id or 0,
                )
                answer = parse_slot(self.tokenizer.decode(output[0, len(text) :], skip_special_tokens=True))
                found[i, a] = np.nan if answer is None else answer
        return found


def _gathered(found: Iterator[tuple[_Answers, int]]) -> np.ndarray:
    """The answers of all samples, shape `(n, 2, 12)`."""
    answers = {i: answer for part, _ in found for i, answer in part.items()}
    whole = [answer for _, answer in sorted(answers.items()) if answer is not None]
    if len(whole) < len(answers):
        raise ScorerError(
            "memory runs out on a dialogue of four short turns; give a smaller judge, quantization='nf4' or a shorter "
            "rubric"
        )
    return np.stack(whole)


def _answer(chain: Chain, logits: torch.Tensor) -> np.ndarray:
    """The probability of each value 0 to 10, and the greedy answer, from a chain's logits, `(reads, vocabulary)`."""
    chances = torch.softmax(logits, dim=-1)
    values = chances[0, list(chain.first)].double().cpu().numpy()  # of 10: its first token alone
    if chain.second is None:
        return np.append(values, values.argmax())
    goes_on = float(chances[1, chain.second])
    is_next = goes_on >= float(chances[1].max())
    begins = chain.first.index(chain.first[10])  # 1, or 10 where no other value begins as it does
    greedy = int(values[:10].argmax())
    if is_next and values[10] >= values[greedy]:
        greedy = 10
    values[10] *= goes_on
    if begins != 10:
        values[begins] *= 1 - goes_on
    return np.append(values, greedy)
