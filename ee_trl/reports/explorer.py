"""The explorer: one page, without a network, on which a threshold is chosen by looking at what it keeps and drops."""

from __future__ import annotations

import base64
import json
import os
import re
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..axes import DEFAULT_THRESHOLD, SENSIBILITY, Threshold
from ..errors import FormatError, require
from ..files import check_output, write_text
from .explorer_data import DEFAULT_LIMIT, explorer_data


if TYPE_CHECKING:
    from ..data.tables import AnyDataset

ENDINGS = (".html", ".htm")


def write_explorer(
    scored: AnyDataset | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    threshold: Threshold = DEFAULT_THRESHOLD,
    ties: str = "drop",
    keep: Any = SENSIBILITY,
    limit: int = DEFAULT_LIMIT,
    seed: int = 0,
    overwrite: bool = False,
    source: str | None = None,
    split: str | None = None,
    config: str | None = None,
) -> Path:
    """
    Writes a page on which to choose thresholds: the score plane, what is in each quadrant, and the dialogues.

    It is one file that needs nothing else, neither a server nor a network. Counts and shares are exact whatever the
    size of the data set; the texts of up to `limit` dialogues are in it.

    Args:
        scored (`Dataset`, `IterableDataset`, `str` or `os.PathLike`):
            What [`EmpathyDataSelector.score`] gave, or data with columns `sensibility` and `rationality`; or its path.
        output (`str` or `os.PathLike`): Ends in `.html`.
        threshold (`float`, pair or mapping, *optional*, defaults to `5.0`): Where the sliders start, in steps of 0.1.
        ties (`str`, *optional*, defaults to `"drop"`): See [`~ee_trl.axes.quadrants`]; the page can change it.
        keep (`str` or `Iterable[str]`, *optional*, defaults to `"sensibility"`): The quadrants ticked at the start.
        limit (`int`, *optional*, defaults to `50000`): How many dialogues to hold the text of.
        seed (`int`, *optional*, defaults to `0`): Of the draw, where there are more.
        overwrite (`bool`, *optional*, defaults to `False`): Whether the file may replace another.
        source, split, config (`str`, *optional*):
            By which `ee-trl select` finds the data, for the command that the page shows; a path is its own source.

    Returns:
        `Path` of the page.

    Raises:
        [`MissingExtraError`]: plotly is not installed.
        [`ScoresError`]: There are no scores.
        [`SelectionError`]: An option is not valid.
    """
    from ..data.reading import opened

    path = check_output(output, overwrite=overwrite, endings=ENDINGS)
    library = plotting_library()
    if isinstance(scored, (str, os.PathLike)):
        source = source or os.fspath(scored)
    dataset = opened(scored)
    if hasattr(dataset, "keys"):
        raise FormatError(f"there are several splits: {', '.join(dataset)}; explore one of them")
    named: dict[str, Any] = {"source": source, "split": split, "config": config}
    data = explorer_data(dataset, threshold, ties, keep=keep, limit=limit, seed=seed, **named)
    write_text(path, explorer_page(data, library))
    return path


def plotting_library() -> str:
    """The source of plotly.js; raises [`MissingExtraError`] where plotly is not installed."""
    return require("plotly.offline", extra="explorer", purpose="the explorer").get_plotlyjs()


def explorer_page(data: dict[str, Any], library: str) -> str:
    """
    The page with its data.

    No text of the data is markup: it is in a block of JSON, without `<`, and the script sets it as text. Should that
    ever fail, the browser runs no script and loads nothing that is not in this page as it is written here.

    Args:
        data (`dict`): Of [`~ee_trl.reports.explorer_data.explorer_data`].
        library (`str`): Source of plotly.js.
    """
    assets = files("ee_trl").joinpath("assets/explorer")
    script = assets.joinpath("explorer.js").read_text(encoding="utf-8")
    parts = {
        "policy": _policy([library, script]),
        "style": assets.joinpath("style.css").read_text(encoding="utf-8"),
        "library": library,
        "script": script,
        "data": inert_json(data),
    }
    page = assets.joinpath("page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match.group(1)], page)


def inert_json(data: Any) -> str:
    """JSON that a block of a page can hold: it can neither end the block nor open a comment in it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace").decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _policy(scripts: list[str]) -> str:
    """What a browser may run and load for this page: these scripts, its own style and pictures it draws itself."""
    allowed = " ".join(f"'sha256-{base64.b64encode(sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"
