"""The explorer: one page, without a network, on which a threshold is chosen by looking at what it keeps and drops."""

from __future__ import annotations

import json
import os
import re
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..axes import DEFAULT_THRESHOLD, SENSIBILITY, Threshold
from ..data.reading import opened
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

    The page is one file that needs neither a server nor a network. Counts and shares are exact whatever the size of
    the data set; the page holds the texts of up to `limit` dialogues.

    Args:
        scored (`Dataset`, `IterableDataset`, `str` or `os.PathLike`):
            The result of [`EmpathyDataSelector.score`], or data with columns `sensibility` and `rationality`; or its
            path.
        output (`str` or `os.PathLike`): Ends in `.html`.
        threshold (`float`, pair or mapping, *optional*, defaults to `5.0`): Where the sliders start, in steps of 0.1.
        ties (`str`, *optional*, defaults to `"drop"`): See [`~ee_trl.axes.quadrants`]; the page can change it.
        keep (`str` or `Iterable[str]`, *optional*, defaults to `"sensibility"`): The quadrants ticked at the start.
        limit (`int`, *optional*, defaults to `50000`): The most dialogues whose text the page holds.
        seed (`int`, *optional*, defaults to `0`): Seed of the draw, where there are more.
        overwrite (`bool`, *optional*, defaults to `False`): Whether the file may replace another.
        source, split, config (`str`, *optional*):
            The name of the data for the `ee-trl select` command that the page shows; a path is its own source.

    Returns:
        `Path` of the page.

    Raises:
        [`MissingExtraError`]: plotly is not installed.
        [`ScoresError`]: There are no scores.
        [`SelectionError`]: An option is not valid.
    """
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

    No text of the data is markup: it stands in a block of JSON without `<`, and the script sets it as text. Even if
    that failed, the browser would run no script and load nothing but what is written here.

    Args:
        data (`dict`): The result of [`~ee_trl.reports.explorer_data.explorer_data`].
        library (`str`): Source of plotly.js.
    """
    assets = files("ee_trl").joinpath("assets/explorer")
    page, style, script = (
        assets.joinpath(name).read_text(encoding="utf-8") for name in ("page.html", "style.css", "explorer.js")
    )
    allowed = " ".join(f"'{script_hash(source)}'" for source in (library, script))
    parts = {
        "policy": f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:",
        "style": style,
        "library": library,
        "script": script,
        "data": inert_json(data),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match.group(1)], page)


def inert_json(data: Any) -> str:
    """JSON for a block of a page: it can neither end the block nor open a comment in it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace").decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def script_hash(script: str) -> str:
    """The name by which a page's content security policy allows a script."""
    return f"sha256-{b64encode(sha256(script.encode()).digest()).decode()}"
