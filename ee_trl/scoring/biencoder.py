"""The distilled scorer that flags: an encoder reads context and reply apart, and a small head compares the two."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from ..axes import APPROPRIATENESS, AXES
from ..data.dialogue import Dialogue
from ..errors import ScorerError
from .encoder import (
    Encoded,
    EncoderInputs,
    EncoderScorer,
    Predicted,
    fixed_batches,
    loaded,
    padded,
    tokenizer_of,
)
from .linear import LICENCE_NOTICE


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger("ee_trl")

HEAD_FILE = "head.safetensors"
BUNDLED = Path(__file__).resolve().parents[1] / "assets" / "minilm" / "model"
_AT_ONCE = 256  # dialogues whose texts are read together
_ROWS = 64  # of the head's batches: all have one shape, so that no number depends on its neighbours


class Head(torch.nn.Module):
    """
    Compares the vectors of contexts and of replies, each of shape `(n, width)`.

    `axes` predicts sensibility and rationality from the vectors as they are. `fit` gives the logits of a reply that
    fits its context and of each flag; it reads the vectors after a projection of their own for either side, whose
    cosine is high for a reply to its own context.
    """

    def __init__(self, width: int, flags: int, hidden: int = 256) -> None:
        super().__init__()
        self.context, self.reply = torch.nn.Linear(width, width), torch.nn.Linear(width, width)
        for projection in (self.context, self.reply):
            torch.nn.init.eye_(projection.weight)
            torch.nn.init.zeros_(projection.bias)
        size = 4 * width + 1
        self.axes = torch.nn.Linear(size, len(AXES))
        self.fit = torch.nn.Sequential(
            torch.nn.Linear(size, hidden), torch.nn.GELU(), torch.nn.Dropout(0.1), torch.nn.Linear(hidden, 1 + flags)
        )
        self.temperature = torch.nn.Parameter(torch.tensor(20.0))

    def projected(self, contexts: torch.Tensor, replies: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both sides in the space where a reply lies near its context; unit length."""
        sides = ((self.context, contexts), (self.reply, replies))
        first, second = (functional.normalize(side(functional.normalize(x, dim=-1)), dim=-1) for side, x in sides)
        return first, second

    def logits(self, contexts: torch.Tensor, replies: torch.Tensor) -> torch.Tensor:
        """Shape `(n, 1 + flags)`."""
        found: torch.Tensor = self.fit(compared(*self.projected(contexts, replies)))
        return found

    def forward(self, contexts: torch.Tensor, replies: torch.Tensor) -> torch.Tensor:
        """The axes' raw predictions, then the logits: shape `(n, 2 + 1 + flags)`."""
        plain = compared(functional.normalize(contexts, dim=-1), functional.normalize(replies, dim=-1))
        # a matrix product with two columns would sum a row in an order that depends on its place in the batch
        axes = (plain[:, None, :] * self.axes.weight).sum(dim=-1) + self.axes.bias
        return torch.cat([axes, self.logits(contexts, replies)], dim=-1)


def compared(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Features of two unit vectors: both, their product, their distance and their cosine, of similar size."""
    product = first * second
    cosine = product.sum(dim=-1, keepdim=True)
    return torch.cat([8 * first, 8 * second, 30 * product, 8 * (first - second).abs(), 5 * cosine], dim=-1)


def means(encoder: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The mean of the last hidden states of each text, shape `(n, width)`, in float32."""
    hidden = encoder(**batch).last_hidden_state.float()
    mask = batch["attention_mask"][..., None]
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1)


def encode_apart(
    inputs: EncoderInputs, tokenizer: PreTrainedTokenizerBase, dialogues: Sequence[Dialogue]
) -> tuple[list[Encoded], list[Encoded]]:
    """Contexts, which lose their oldest words, and replies, which keep their beginning: `max_length` tokens each."""
    before, after = _around(tokenizer)
    room = inputs.max_length - len(before) - len(after)
    contexts, replies = inputs.ids(tokenizer, dialogues)
    return (
        [{"input_ids": [*before, *ids[-room:], *after]} for ids in contexts],
        [{"input_ids": [*before, *ids[:room], *after]} for ids in replies],
    )


def _around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens before and after a text."""
    inside = tokenizer("no", add_special_tokens=False)["input_ids"]
    ids = tokenizer("no")["input_ids"]
    start = next((i for i in range(len(ids)) if ids[i : i + len(inside)] == inside), None)
    if not inside or start is None:
        raise ScorerError(
            f"{type(tokenizer).__name__} does not put special tokens around a text; give another encoder"
        )
    return ids[:start], ids[start + len(inside) :]


def text_vectors(
    encoder: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Encoded], token_budget: int, max_length: int
) -> tuple[torch.Tensor, int]:
    """[`means`] of texts in batches of fixed shape, shape `(n, width)`, and the tokens with padding."""
    found = torch.empty(len(texts), encoder.config.hidden_size, device=encoder.device)
    tokens = 0
    for rows, width, members in fixed_batches([len(t["input_ids"]) for t in texts], token_budget, max_length):
        batch = padded(tokenizer, [texts[i] for i in members], rows, width)
        with torch.inference_mode():
            vectors = means(encoder, {name: ids.to(encoder.device) for name, ids in batch.items()})
        found[members] = vectors[: len(members)]
        tokens += rows * width
    return found, tokens


def head_outputs(head: Head, contexts: torch.Tensor, replies: torch.Tensor) -> np.ndarray:
    """The head's outputs, shape `(n, 2 + 1 + flags)`, in batches of one shape."""
    found = []
    for start in range(0, len(contexts), _ROWS):
        pair = [side[start : start + _ROWS] for side in (contexts, replies)]
        count = len(pair[0])
        first, second = (torch.cat([side, side[:1].expand(_ROWS - count, -1)]) for side in pair)
        with torch.inference_mode():
            found.append(head(first, second)[:count].double().cpu().numpy())
    return np.concatenate(found)


def flag_odds(outputs: np.ndarray) -> np.ndarray:
    """The log odds of each flag against a reply that fits its context, shape `(n, flags)`, from the head's outputs."""
    return outputs[:, len(AXES) + 1 :] - outputs[:, len(AXES), None]


def appropriateness(odds: np.ndarray, cuts: Sequence[float]) -> np.ndarray:
    """In [0, 1], shape `(n,)`, from [`flag_odds`]: 0.5 where the odds of one flag reach their cut, lower above it."""
    return np.round(1 / (1 + np.exp((odds - np.asarray(cuts)).max(axis=1))), 4)


class BiEncoderScorer(EncoderScorer):
    """
    Scores dialogues with a distilled bi-encoder, and flags replies that do not fit their context.

    It has the options and guarantees of [`EncoderScorer`], and further gives `appropriateness`, in [0, 1]: how sure it
    is that a reply fits its context. A reply below 0.5 gets the likeliest flag.
    """

    details = (APPROPRIATENESS,)

    def _loaded(
        self, folder: Path, dtype: torch.dtype, quantization: str, device: torch.device, trust_remote_code: bool
    ) -> tuple[PreTrainedTokenizerBase, Any]:
        from transformers import AutoModel

        # with fused attention a resumed online run scored some rows differently in the last bits
        options = {"attn_implementation": "eager"}
        encoder = loaded(AutoModel, folder, device, trust_remote_code, quantization, **options)
        self.head = load_head(folder, encoder.config.hidden_size, len(self.settings.flags)).to(device)
        return tokenizer_of(folder, trust_remote_code), encoder if quantization == "int8" else encoder.to(dtype)

    def _predicted(self, dialogues: Sequence[Dialogue]) -> Iterator[Predicted]:
        inputs, settings = self.settings.inputs, self.settings
        contexts, replies = encode_apart(inputs, self.tokenizer, dialogues)
        order = sorted(range(len(dialogues)), key=lambda i: -len(contexts[i]["input_ids"]))
        for start in range(0, len(order), _AT_ONCE):
            members = order[start : start + _AT_ONCE]
            sides = [[side[i] for i in members] for side in (contexts, replies)]
            vectors = [
                text_vectors(self.model, self.tokenizer, side, self.token_budget, inputs.max_length) for side in sides
            ]
            outputs = head_outputs(self.head, vectors[0][0], vectors[1][0])
            odds = flag_odds(outputs)
            fits, likeliest = appropriateness(odds, settings.cuts), (odds - settings.cuts).argmax(axis=1)
            flags = [None if fit >= 0.5 else settings.flags[i] for fit, i in zip(fits, likeliest, strict=True)]
            yield Predicted(
                members,
                outputs[:, : len(AXES)],
                tokens=sum(len(text["input_ids"]) for side in sides for text in side),
                forward_tokens=sum(tokens for _, tokens in vectors),
                details={APPROPRIATENESS: fits},
                flags=flags,
            )


@cache  # once per process
def _log_notice() -> None:
    logger.warning(LICENCE_NOTICE.replace("'linear'", "'minilm'"))


def bundled_minilm(**options: Any) -> BiEncoderScorer:
    """The bundled scorer; it logs the licence of its weights once per process."""
    _log_notice()
    return BiEncoderScorer(BUNDLED, **options)


def dialogue_vectors(dialogues: Sequence[Dialogue]) -> np.ndarray:
    """The bundled encoder's vectors of context and reply side by side, of unit length each, shape `(n, 2 * width)`."""
    scorer = _embedder()
    inputs = scorer.settings.inputs
    sides = [
        text_vectors(scorer.model, scorer.tokenizer, side, scorer.token_budget, inputs.max_length)[0]
        for side in encode_apart(inputs, scorer.tokenizer, dialogues)
    ]
    found: np.ndarray = torch.cat([functional.normalize(side, dim=-1) for side in sides], dim=-1).cpu().numpy()
    return found


@cache
def _embedder() -> BiEncoderScorer:
    return bundled_minilm()


def load_head(folder: Path, width: int, flags: int) -> Head:
    """The head of a saved bi-encoder, in float32."""
    from safetensors.torch import load_file

    with torch.device("meta"):  # drawing weights to replace them would change the random state of a training
        head = Head(width, flags)
    try:
        weights = {name: tensor.float() for name, tensor in load_file(folder / HEAD_FILE).items()}
        head.load_state_dict(weights, assign=True)
    except Exception as error:  # a damaged folder can raise anything
        raise ScorerError(
            f"{str(folder / HEAD_FILE)!r} cannot be loaded: {error}; run `ee-trl distill` again"
        ) from error
    return head.eval()


def save_head(head: Head, folder: Path) -> None:
    """Writes the head of a bi-encoder."""
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in head.state_dict().items()}, folder / HEAD_FILE)
