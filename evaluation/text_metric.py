"""[`TextMetric`], the base of this package's `evaluate` modules."""

from __future__ import annotations

import inspect
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import datasets
import evaluate

from ee_trl.errors import check_choice

from .bootstrap import Bootstrap
from .texts import CHECKS, Check, check_columns


Function = Callable[..., dict[str, Any]]


class TextMetric(evaluate.Metric, ABC):
    """
    A plain function of texts as an `evaluate` module.

    The function's parameters that `checks` names are columns; the others, and the fields of
    [`~ee_trl.evaluation.bootstrap.Bootstrap`], are options. `evaluate` would store a number or None as a string; this
    class refuses values that are not text, an empty corpus and unknown options. The metric's card, `README.md` in its
    folder, gives the description, the citation and the inputs.
    """

    checks: ClassVar[Mapping[str, Check]] = CHECKS
    """The names of possible columns, and what checks each."""

    @property
    @abstractmethod
    def functions(self) -> Mapping[str, Function]:
        """Configuration, `"default"` or another -> the arithmetic, from columns and options to the result."""

    def _info(self) -> evaluate.MetricInfo:
        check_choice("configuration", self.config_name, self.functions)
        self.function = self.functions[self.config_name]
        parameters = inspect.signature(self.function).parameters.values()
        columns = [p.name for p in parameters if p.name in self.checks]
        own = [p.name for p in parameters if p.name not in columns and p.kind is not p.VAR_KEYWORD]
        self.options = (*own, *(field.name for field in fields(Bootstrap)))
        card = _sections(Path(__file__).with_name(type(self).__module__.rpartition(".")[2]) / "README.md")
        return evaluate.MetricInfo(
            description=card["Metric description"],
            citation=card["Citation"],
            inputs_description="\n\n".join(card[name] for name in ("How to use", "Inputs", "Output values")),
            # values are stored as JSON, so that a context keeps its structure
            features=datasets.Features(dict.fromkeys(columns, datasets.Value("string"))),
            reference_urls=re.findall(r"url = \{(.+)\}", card["Citation"]),
        )

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Adds samples: `predictions` and the metric's other columns, each a list with one entry a sample."""
        given = {"predictions": predictions, "references": references, **kwargs}
        columns = {name: given.get(name) for name in self.features}
        stored = [list(map(json.dumps, values)) for values in check_columns(columns, self.checks, len(self))]
        others = {name: value for name, value in kwargs.items() if name not in columns}  # which the library refuses
        super().add_batch(**dict(zip(columns, stored, strict=True)), **others)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Adds one sample: `prediction`, `reference` where the metric has them, and its other columns by name."""
        given = {"predictions": prediction, "references": reference, **kwargs}
        self.add_batch(**{name: [given[name]] for name in self.features if name in given})

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, Any] | None:
        """Computes the metric over the samples added so far and those given here."""
        given = {"predictions": predictions, "references": references, **kwargs}
        columns = {name: given.get(name) for name in self.features}
        if all(column is None for column in columns.values()) and len(self) == 0:
            raise ValueError("no samples: 0 were added, and none were given to compute.")
        chosen = {name: value for name, value in kwargs.items() if name not in columns}
        for name in chosen:
            if name not in self.options:
                raise TypeError(f"unknown option {name!r}; valid: {', '.join(self.options)}.")
        return super().compute(**columns, **chosen)

    def _compute(self, **given: Any) -> dict[str, Any]:
        columns = {name: list(map(json.loads, given.pop(name))) for name in self.features}
        return self.function(**columns, **given)


def _sections(card: Path) -> dict[str, str]:
    """Heading -> the text below it."""
    parts = re.split(r"^#+ (.+)\n", card.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}
