"""What this package raises. Every message names the value at fault, the valid ones, and the fix."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Iterable
from numbers import Integral
from types import ModuleType
from typing import Any, TypeVar, cast


F = TypeVar("F", bound=Callable[..., Any])


class EmpathyError(ValueError):
    """Base of every error that this package raises on purpose."""


class FormatError(EmpathyError):
    """The columns match no known dialogue format, or a format that cannot be used here."""


class ScoresError(EmpathyError):
    """Score columns are missing, of the wrong type, or were made by another scorer."""


class SelectionError(EmpathyError):
    """A selection option is not valid, or the data cannot satisfy it."""


class NothingLeftError(SelectionError):
    """Every weight is 0: nothing is left to draw, or to train on."""


class ScorerError(EmpathyError):
    """A scorer cannot be loaded, or broke its contract."""


class StoreError(EmpathyError):
    """The score store cannot be read or written."""


class CoverageError(EmpathyError):
    """More samples are unscored than the run accepts."""


class TrainingError(EmpathyError):
    """Scores cannot guide this trainer, or an argument is not valid; the message names the alternative."""


class CompositionError(EmpathyError):
    """The experts cannot be composed, or the router cannot be trained; the message says why."""


class MissingExtraError(EmpathyError, ImportError):
    """An optional dependency is not installed; the message gives the pip line."""


def unknown(kind: str, value: object, valid: Iterable[str]) -> str:
    """The message for a value that is not valid; it lists the valid ones and suggests the nearest."""
    valid = list(valid)
    close = difflib.get_close_matches(str(value), valid, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"unknown {kind} {value!r}; valid: {', '.join(valid) or 'none'}.{hint}"


def options_named(function: F) -> F:
    """The function; for an unknown option it raises [`SelectionError`] with the nearest name, also of its class."""
    valid = [name for name in inspect.signature(function).parameters if name != "self"]

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        for name in options.keys() - set(valid):
            of_class = inspect.signature(type(args[0])).parameters if args and "." in function.__qualname__ else ()
            text = unknown(f"option of {function.__name__}", name, valid)
            if "Did you" not in text and (close := difflib.get_close_matches(name, of_class, n=1)):
                text += f" {close[0]!r} is an option of {type(args[0]).__name__}({close[0]}=...)."
            raise SelectionError(text)
        return function(*args, **options)

    return cast(F, call)


def root_cause(error: BaseException) -> str:
    """The first error in the chain of causes, as `Type: message`."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def check_choice(kind: str, value: object, valid: Iterable[str], error: type[EmpathyError] = EmpathyError) -> None:
    """Raises `error` unless the value is one of the valid ones; the message lists them and suggests the nearest."""
    valid = list(valid)
    if value not in valid:
        raise error(unknown(kind, value, valid))


def check_count(name: str, value: object, least: int = 1, error: type[EmpathyError] = EmpathyError) -> None:
    """Raises `error` unless the value is a whole number of at least `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise error(f"{name} {value!r} is not a whole number of at least {least}")


def check_share(name: str, value: object, error: type[EmpathyError] = EmpathyError) -> None:
    """Raises `error` unless the value is a number in [0, 1]."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
        raise error(f"{name} {value!r} is not a number in [0, 1]")


def require(module: str, *, extra: str = "", purpose: str) -> ModuleType:
    """Imports a dependency (of an extra), or raises [`MissingExtraError`] with its purpose and the pip line."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs {module.split('.')[0]!r}, which is not installed. "
            f"Install it with: pip install 'ee-trl{f'[{extra}]' if extra else ''}'"
        ) from error
