#!/usr/bin/env python
"""
Writes docs/errors.md: every error that the package raises on purpose, and when.

    python scripts/list_errors.py          # writes it
    python scripts/list_errors.py --check  # fails if it is out of date

Read off the source: the message with what varies as `<name>`, and the condition under which it is raised.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from ee_trl import errors


ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "errors.md"
KINDS = {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)}


class Raised(NamedTuple):
    """One place that raises."""

    kind: str
    message: str
    when: str
    where: str


def raised_in(path: Path) -> list[Raised]:
    """Every error of the package's own that a file raises."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    where = path.relative_to(ROOT).as_posix()
    found = []
    for node in ast.walk(tree):
        call = node.exc if isinstance(node, ast.Raise) else None
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in KINDS and call.args:
            found.append(Raised(call.func.id, text_of(call.args[0]), condition(node, parents), where))
    return found


def text_of(node: ast.expr) -> str:
    """A message as it reads, with what varies in angle brackets."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return f"<{_short(node.value)}>"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text_of(node.left) + text_of(node.right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "unknown":
        return f"unknown {text_of(node.args[0])} <{_short(node.args[1])}>; valid: <{_short(node.args[2])}>"
    return f"<{_short(node)}>"


def condition(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> str:
    """The nearest test or failure that an error hangs on."""
    while (parent := parents.get(node)) is not None:
        if isinstance(parent, ast.If):
            test = ast.unparse(parent.test)
            return f"not ({test})" if node in parent.orelse else test
        if isinstance(parent, ast.ExceptHandler):
            return f"{ast.unparse(parent.type) if parent.type else 'an exception'} was raised"
        if isinstance(parent, ast.FunctionDef):
            return f"in `{parent.name}`, where nothing else fits"
        node = parent
    return ""


def _short(node: ast.expr) -> str:
    """What a reader would call a value."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Subscript(value=inner) | ast.Starred(value=inner) | ast.GeneratorExp(elt=inner):
            return _short(inner)
        case ast.Call(func=ast.Attribute(attr="join"), args=[inner]) | ast.Call(func=ast.Name(), args=[inner, *_]):
            return _short(inner)
        case ast.Call(func=function):
            return _short(function)
    return "..."


def page() -> str:
    """The page, by kind of error and by file."""
    by_kind: dict[str, list[Raised]] = defaultdict(list)
    for path in sorted((ROOT / "ee_trl").rglob("*.py")):
        for raised in raised_in(path):
            by_kind[raised.kind].append(raised)
    lines = [
        "# Every error",
        "",
        "Made by `scripts/list_errors.py` from the source. What varies is in angle brackets.",
        "",
    ]
    for name, kind in KINDS.items():
        lines += [f"## {name}", "", inspect.getdoc(kind) or "", ""]
        if by_kind[name]:
            lines += ["| message | raised when | in |", "|---|---|---|"]
            rows = sorted({(r.where, r.message, r.when) for r in by_kind[name]})
            lines += [
                f"| {_cell(message)} | `{_cell(when, code=True)}` | `{where}` |" for where, message, when in rows
            ]
            lines.append("")
    return "\n".join(lines)


def _cell(text: str, *, code: bool = False) -> str:
    text = " ".join(text.split()).replace("|", "\\|")
    return text.replace("`", "'") if code else text.replace("<", "&lt;").replace("[", "\\[")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is out of date")
    args = parser.parse_args()
    if not args.check:
        PAGE.write_text(page(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page():
        sys.exit(f"{PAGE.relative_to(ROOT)} is out of date: run python scripts/list_errors.py")


if __name__ == "__main__":
    main()
