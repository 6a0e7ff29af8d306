"""Optional dependencies: imported where they are used, and explained where they are absent."""

from __future__ import annotations

import importlib
from types import ModuleType

from .errors import MissingExtraError


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Imports `module`, or says what it is needed for and which extra of this package installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs {module.split('.')[0]!r}, which is not installed. "
            f"Install it with: pip install 'ee-trl[{extra}]'"
        ) from error
