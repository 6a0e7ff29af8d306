"""BERTScore of generated replies as an `evaluate` module. The library is called in `similarity.py`."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from .bootstrap import CONFIDENCE
from .similarity import bertscore_scores
from .texts import CheckedInputs


_DESCRIPTION = """
BERTScore: how alike the words of reply and reference are in the embeddings of an encoder; precision, recall and F1,
x100, by the library bert-score with a model of one's own.
"""

_CITATION = """
@inproceedings{zhang2020bertscore,
    title = {{BERTScore}: Evaluating Text Generation with {BERT}},
    author = {Zhang, Tianyi and Kishore, Varsha and Wu, Felix and Weinberger, Kilian Q. and Artzi, Yoav},
    booktitle = {International Conference on Learning Representations},
    year = {2020}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[str]`):
        The generated replies; a blank one scores 0.
    references (`list[str]`):
        The reference of each.
    model (`str`):
        Folder or hub id of an encoder.
    num_layers (`int`, *optional*):
        Which layer's embeddings are compared; by default the library's choice for a model of that name, or the last.
    batch_size (`int`, *optional*, defaults to `32`):
        Texts per forward pass.
    device (`str`, *optional*):
        By default a CUDA device where there is one.
    resamples (`int`, *optional*, defaults to `0`):
        How many bootstrap resamples to draw for an interval of each number; 0 for no intervals.
    confidence (`float`, *optional*, defaults to `0.95`):
        Of the intervals.
    seed (`int`, *optional*, defaults to `0`):
        Of the resamples.

Returns:
    `dict`: `bertscore_precision`, `bertscore_recall`, `bertscore_f1` (0 to 100), `blank`, `n`, `num_layers`; with
    `resamples`, also `<name>_interval`.

Examples:

    An encoder with weights of zero finds all words alike:

    >>> import evaluate
    >>> import tempfile
    >>> import torch
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
    >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "i", "am", "sorry"]
    >>> backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    >>> backend.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]",
    ...                                     cls_token="[CLS]", sep_token="[SEP]")
    >>> config = BertConfig(vocab_size=7, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
    ...                     num_attention_heads=1, max_position_embeddings=16)
    >>> model = BertModel(config)
    >>> for weight in model.parameters():
    ...     _ = torch.nn.init.ones_(weight)
    >>> bertscore = evaluate.load("evaluation/bertscore")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save_pretrained(folder)
    ...     _ = tokenizer.save_pretrained(folder)
    ...     found = bertscore.compute(predictions=["i am"], references=["sorry"], model=folder)
    >>> round(found["bertscore_f1"], 2), found["num_layers"], found["n"]
    (100.0, 1, 1)
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Bertscore(CheckedInputs, evaluate.Metric):
    """BERTScore; see `bertscore_scores`."""

    def _info(self) -> evaluate.MetricInfo:
        texts = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": texts, "references": texts}),
            reference_urls=["https://arxiv.org/abs/1904.09675"],
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        model: str | None = None,
        num_layers: int | None = None,
        batch_size: int = 32,
        device: str | None = None,
        resamples: int = 0,
        confidence: float = CONFIDENCE,
        seed: int = 0,
    ) -> dict[str, Any]:
        return bertscore_scores(
            predictions, references, model, num_layers, batch_size, device, resamples, confidence, seed
        )
