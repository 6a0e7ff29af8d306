"""The model card of a composed model: what it is made of, and how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__


if TYPE_CHECKING:
    from .compose import Sources

PROVENANCE = "composition.json"


def write_card(folder: Path, name: str, base: str, sources: Sources, settings: Mapping[str, Any]) -> None:
    """Writes `README.md` and, for machines, `composition.json`."""
    experts = {
        expert: {"source": str(source.folder), "kind": source.kind, "weights": source.fingerprint()}
        for expert, source in sources.experts.items()
    }
    versions = {"ee-trl": __version__, **{package: version(package) for package in ("transformers", "torch")}}
    record = {"base": base, "experts": experts, "settings": dict(settings), "versions": versions}
    (folder / PROVENANCE).write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_card(name, record), encoding="utf-8")


def _card(name: str, record: Mapping[str, Any]) -> str:
    base = record["base"]
    mixture = "gate_init" in record["settings"]
    what = (
        "One mixture of the experts below, behind a gate in each layer" if mixture else "The mean of the experts below"
    )
    metadata = ["---", "library_name: transformers", *([f"base_model: {base}"] if base.count("/") == 1 else [])]
    metadata += ["pipeline_tag: text-generation", "tags:", "- ee-trl", *(["- moe"] if mixture else []), "---", ""]
    lines = [
        *metadata,
        f"# {name}",
        "",
        f"{what}, composed by ee-trl after Efficient-Empathy (arXiv:2407.01937).",
        "",
        f"- base: `{base}`",
        *(f"- {key}: `{value}`" for key, value in record["settings"].items()),
        f"- made with: {', '.join(f'{package} {number}' for package, number in record['versions'].items())}",
        "",
        "| | expert | made from | weights |",
        "|---:|---|---|---|",
        *(
            f"| {i} | {expert} | {source['kind']} `{source['source']}` | `{source['weights']}` |"
            for i, (expert, source) in enumerate(record["experts"].items())
        ),
        "",
        "```python",
        "from transformers import AutoModelForCausalLM",
        "",
        'model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")',
        "```",
        "",
    ]
    return "\n".join(lines)
