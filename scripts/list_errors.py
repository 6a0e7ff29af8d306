#!/usr/bin/env python
"""
Writes docs/errors.md: every error that the package raises on purpose, and when.

    python scripts/list_errors.py          # writes it
    python scripts/list_errors.py --check  # fails if it is out of date

Read off the source: the message with what varies as `<name>`, and the condition under which it is raised. The metrics
raise Python's own `ValueError` and `TypeError`, as modules of `evaluate` that load without this package do.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
from collections import Counter, defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple, TypeAlias

from ee_trl import errors


ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "errors.md"
KINDS = {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)}
OF_METRICS = {
    "ValueError": "Of the metrics: a value that they cannot measure. No class of the package, but Python's own.",
    "TypeError": "Of the metrics: something of another type than they take. Python's own.",
}


Parents: TypeAlias = dict[ast.AST, ast.AST]


class Raised(NamedTuple):
    """One place that raises."""

    kind: str
    message: str
    when: str
    where: str


def raised_in(path: Path, kinds: Collection[str] = KINDS, where: str | None = None) -> list[Raised]:
    """Every error of some kinds that a file raises on purpose."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    where = where or path.relative_to(ROOT).as_posix()
    found = []
    for node in ast.walk(tree):
        call = node.exc if isinstance(node, ast.Raise) else None
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in kinds and call.args:
            when = condition(node, parents)
            found += [Raised(call.func.id, text, when, where) for text in texts_of(call.args[0], call, parents, tree)]
    return found


def texts_of(message: ast.expr, call: ast.AST, parents: Parents, module: ast.Module) -> list[str]:
    """A message as it reads: of a choice both, of a name all that it stands for, here or in the module."""
    if isinstance(message, ast.IfExp):
        return [text for part in (message.body, message.orelse) for text in texts_of(part, call, parents, module)]
    if isinstance(message, ast.Name):
        given = [value for value in assigned(message.id, call, parents, module) if not isinstance(value, ast.Name)]
        return [text_of(value) for value in given] or [text_of(message)]
    return [text_of(message)]


def assigned(name: str, node: ast.AST, parents: Parents, module: ast.Module) -> list[ast.expr]:
    """What a name is given in the function that a node is in, or else by the module."""
    for scope in (scope_of(node, parents), module):
        values = [value for part in ast.walk(scope) for value in given_to(name, part)]
        if values:
            return [text for value in values for text in results(value, module)]
    return []


def scope_of(node: ast.AST, parents: Parents) -> ast.AST:
    """The function that a node is in, or the module."""
    while not isinstance(node, ast.FunctionDef | ast.Module):
        node = parents[node]
    return node


def given_to(name: str, node: ast.AST) -> list[ast.expr]:
    """What a statement gives to a name: of a loop, what it goes over."""
    match node:
        case ast.Assign(targets=targets, value=value):
            pass
        case ast.NamedExpr(target=target, value=value) | ast.For(target=target, iter=value):
            targets = [target]
        case _:
            return []
    return [value] if any(isinstance(target, ast.Name) and target.id == name for target in targets) else []


def results(value: ast.expr, module: ast.Module) -> list[ast.expr]:
    """The value itself; of a call of the module's own function, the texts that it returns or yields."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        for function in module.body:
            if isinstance(function, ast.FunctionDef) and function.name == value.func.id:
                given = [part.value for part in ast.walk(function) if isinstance(part, ast.Return | ast.Yield)]
                return [text for text in given if isinstance(text, ast.JoinedStr | ast.BinOp) or _is_text(text)] or [
                    value
                ]
    return [value]


def _is_text(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


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


def condition(node: ast.AST, parents: Parents) -> str:
    """The nearest test or failure that an error hangs on."""
    while (parent := parents.get(node)) is not None:
        if isinstance(parent, ast.If):
            test = tested(parent, parents)
            return f"not ({test})" if node in parent.orelse else test
        if isinstance(parent, ast.ExceptHandler):
            return f"{ast.unparse(parent.type) if parent.type else 'an exception'} was raised"
        if isinstance(parent, ast.FunctionDef):
            return f"in `{parent.name}`, where nothing else fits"
        node = parent
    return ""


def tested(branch: ast.If, parents: Parents) -> str:
    """The test of a branch; of a name alone, what it was given there."""
    if isinstance(branch.test, ast.Name):
        for part in ast.walk(scope_of(branch, parents)):
            for value in given_to(branch.test.id, part):
                return f"{branch.test.id} := {ast.unparse(value)}"
    return ast.unparse(branch.test)


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
    found = [raised for path in sorted((ROOT / "ee_trl").rglob("*.py")) for raised in raised_in(path)]
    metrics = sorted((ROOT / "evaluation").rglob("*.py"))
    names = Counter(path.name for path in metrics if path.name != "__init__.py")
    for path in metrics:
        shared = f"evaluation/*/{path.name}" if names[path.name] > 1 else None  # the same file in each metric's folder
        found += raised_in(path, [*KINDS, *OF_METRICS], shared)
    for raised in found:
        by_kind[raised.kind].append(raised)
    lines = [
        "# Every error",
        "",
        "Made by `scripts/list_errors.py` from the source. What varies is in angle brackets.",
        "",
    ]
    for name, told in ({name: inspect.getdoc(kind) or "" for name, kind in KINDS.items()} | OF_METRICS).items():
        lines += [f"## {name}", "", told, ""]
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
