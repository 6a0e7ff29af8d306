"""The metrics that this package ships, loaded by name as `evaluate` modules, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import EmpathyError, MissingExtraError, require, unknown


LIBRARIES = {
    "bertscore": "bert_score",
    "dialogue_bleu": "nltk",
    "dialogue_rouge": "rouge_score",
    "distinct": "nltk",
    "word_f1": "nltk",
}
"""The library that a metric needs to compute, beyond the core dependencies; checked when the metric is loaded."""


def metrics_dir() -> Path:
    """The folder that holds the metrics, one folder each: `evaluation/` of the repository, or its installed copy."""
    return Path(__file__).parent


def list_metrics() -> list[str]:
    """The names that [`load_metric`] knows: folders with a script of the same name, the form of `evaluate`."""
    return sorted(folder.name for folder in metrics_dir().iterdir() if (folder / f"{folder.name}.py").is_file())


def load_metric(name: str, **kwargs: Any) -> Any:
    """
    Loads one of this package's metrics from its installed folder, without a network.

    Args:
        name (`str`): One of [`list_metrics`].
        **kwargs:
            Passed on to `evaluate.load`, such as `config_name` (of `judge`: `"absolute"` or `"pairwise"`),
            `experiment_id`, `num_process` and `process_id`, or `cache_dir`.

    Returns [`~evaluate.EvaluationModule`] with `add`, `add_batch` and `compute`. Raises [`EmpathyError`] for an
    unknown name, and [`MissingExtraError`] where a library is missing; the message gives the pip line.

    Example:

    >>> from ee_trl.evaluation.load import load_metric
    >>> load_metric("distinct").compute(predictions=["I am so so sorry", "I am here"])
    {'dist1': 62.5, 'dist2': 83.33333333333333, 'n': 2}
    """
    names = list_metrics()
    if name not in names:
        raise EmpathyError(unknown("metric", name, names))
    extra = "bertscore" if name == "bertscore" else "metrics"
    if name in LIBRARIES:
        require(LIBRARIES[name], extra=extra, purpose=f"metric {name!r}")
    import evaluate  # takes seconds, and nothing else here needs it

    try:
        return evaluate.load(str(metrics_dir() / name), **kwargs)
    except ImportError as error:
        raise MissingExtraError(
            f"metric {name!r} needs libraries that are not installed ({error}). "
            f"Install them with: pip install 'ee-trl[{extra}]'"
        ) from error
