"""The metrics that this package ships, loaded by name as `evaluate` modules, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EmpathyError, MissingExtraError, require, unknown


if TYPE_CHECKING:
    from evaluate import EvaluationModule


LIBRARIES = {
    "bertscore": ("bert_score",),
    "dialogue_bleu": ("nltk",),
    "dialogue_rouge": ("rouge_score",),
    "distinct": ("nltk",),
    "word_f1": ("nltk",),
}
"""The libraries that a metric needs to compute, beyond the core dependencies; checked when it is loaded."""

EXTRAS = {"bertscore": "bertscore"}
"""The extra that brings a metric's libraries, where it is not `metrics`."""


def metrics_dir() -> Path:
    """The folder that holds the metrics, one folder each: `evaluation/` of the repository, or its installed copy."""
    return Path(__file__).parent


def list_metrics() -> list[str]:
    """
    The names of the metrics that [`load_metric`] knows, in alphabetical order.

    A metric is a folder with a script of the same name, the form that `evaluate` asks for.
    """
    return sorted(folder.name for folder in metrics_dir().iterdir() if (folder / f"{folder.name}.py").is_file())


def load_metric(name: str, **kwargs: Any) -> EvaluationModule:
    """
    Loads one of this package's metrics from its installed folder, without a network.

    Args:
        name (`str`):
            One of [`list_metrics`].
        **kwargs:
            Passed on to `evaluate.load`, such as `config_name` (of `judge`: `"absolute"` or `"pairwise"`),
            `experiment_id`, `num_process` and `process_id`, or `cache_dir`.

    Returns:
        [`~evaluate.EvaluationModule`]: with `add`, `add_batch` and `compute`.

    Raises:
        [`EmpathyError`]: The name is unknown; the message lists the valid ones.
        [`MissingExtraError`]: The metric needs a library that is not installed; the message gives the pip line.

    Example:

    >>> from ee_trl.evaluation.load import load_metric
    >>> load_metric("distinct").compute(predictions=["I am so so sorry", "I am here"])
    {'dist1': 62.5, 'dist2': 83.33333333333333, 'n': 2}
    """
    names = list_metrics()
    if name not in names:
        raise EmpathyError(unknown("metric", name, names))
    for library in LIBRARIES.get(name, ()):
        require(library, extra=EXTRAS.get(name, "metrics"), purpose=f"metric {name!r}")
    import evaluate  # takes seconds, and nothing else here needs it

    try:
        return evaluate.load(str(metrics_dir() / name), **kwargs)
    except ImportError as error:
        raise MissingExtraError(
            f"metric {name!r} needs libraries that are not installed ({error}). "
            f"Install them with: pip install 'ee-trl[{EXTRAS.get(name, 'metrics')}]'"
        ) from error
