"""Load a user's registry by its name: `module:name`.

The user's module may raise anything while it is imported; the blind `except`
is here, for this one statement, because a traceback of ours would hide whose
fault it is.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback

from oread.cli.errors import CommandError
from oread.registry import Registry

DEFAULT_NAME = "registry"


def load_registry(app: str) -> Registry:
    """Import a module and return the registry it has under a name.

    Args:
        app: `module:name`; without `:name` it is `registry`. The working
            directory is looked in first, as `python -m` does.

    Raises:
        CommandError: no such module, it fails, no such name, not a registry.
    """
    module_name, _, attribute = app.partition(":")
    attribute = attribute or DEFAULT_NAME
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise CommandError(f"--app {app}: {module_name!r} is no module's name", "write MODULE:NAME")
    if (directory := os.getcwd()) not in sys.path:
        sys.path.insert(0, directory)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise _failed(app, module_name, error) from error
        raise CommandError(
            f"--app {app}: there is no module {error.name!r} in {directory}",
            "run it where the module is, or install it",
        ) from error
    except (Exception, SystemExit) as error:
        raise _failed(app, module_name, error) from error
    try:
        found = getattr(module, attribute)
    except AttributeError as error:
        there = ", ".join(name for name, value in vars(module).items() if isinstance(value, Registry))
        advice = f"its registries are {there}" if there else "it has no oread.Registry at all"
        raise CommandError(f"--app {app}: module {module_name!r} has no {attribute!r}", advice) from error
    if not isinstance(found, Registry):
        raise CommandError(
            f"--app {app}: {attribute!r} is of type {type(found).__qualname__}", "name an oread.Registry"
        )
    return found


def _failed(app: str, module_name: str, error: Exception | SystemExit) -> CommandError:
    """Name the error and the line of the user's code that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return CommandError(
        f"--app {app}: importing {module_name!r} raised {type(error).__name__}: {error}",
        f"see {frame.filename} line {frame.lineno}",
    )
