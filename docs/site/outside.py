"""Pages from outside docs/ (recipes, benchmarks, metrics, changelog) become pages of the site, and links follow."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File


ROOT = Path(__file__).parents[2]
OUTSIDE = {
    "recipes/README.md": "recipes.md",
    "benchmarks/README.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
} | {
    path.relative_to(ROOT).as_posix(): f"metrics/{path.parent.name}.md" for path in ROOT.glob("evaluation/*/README.md")
}
"""File of the repository -> page of the site."""

_LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages from outside."""
    for source, page in OUTSIDE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        text = re.sub(r"^# Metric Card for ", "# ", _without_front_matter(text), flags=re.MULTILINE)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turns links between files of the repository into links between pages; other files are named, not linked."""
    uri = page.file.src_uri
    own = {page: source for source, page in OUTSIDE.items()}.get(uri, f"docs/{uri}")

    def follow(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if "://" in target:
            return match[0]
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(own), target))
        found = OUTSIDE.get(wanted) or (wanted.removeprefix("docs/") if wanted.startswith("docs/") else None)
        if found is None:
            return f"{text} (`{wanted}`)" if wanted not in text else text
        return f"[{text}]({posixpath.relpath(found, posixpath.dirname(uri) or '.')}{anchor})"

    return _LINK.sub(follow, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Takes the markup out of what docstrings say in markup: names as [`~module.Name`], types as `str`, *optional*."""
    html = re.sub(r"\[<code>~?(?:ee_trl\.(?:\w+\.)*)?([\w.~]+)</code>\]", r"<code>\1</code>", html)
    return re.sub(r"<code>([^<]*`[^<]*)</code>", _without_markup, html)


def _without_markup(match: re.Match[str]) -> str:
    return f"<code>{re.sub('[`*]|(?<=`)]|[[](?=`)', '', match[1])}</code>"


def _without_front_matter(text: str) -> str:
    return re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
