"""Let pytest find the fixtures of `oread.testing.plugin` without loading it.

pytest imports every plugin that is installed, for the tests of other projects
as well. Importing anything of `oread` imports Trio and the whole library, 0.2 s;
so this module stands beside the package, and imports it when a test asks for a
fixture. What the fixtures do is said in `oread.testing.plugin`.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest


@pytest.fixture
def oread_world() -> Any:
    """Make what the other fixtures of this test share."""
    return importlib.import_module("oread.testing.plugin").World()


@pytest.fixture
def oread_registry(oread_world: Any) -> Any:
    """Give the test an empty registry of its own."""
    return oread_world.registry


@pytest.fixture
def oread_service(oread_world: Any) -> Any:
    """Give the test `World.open_service`, for `async with`."""
    return oread_world.open_service


@pytest.fixture
def oread_client(oread_world: Any) -> Any:
    """Give the test `World.open_client`, for `async with`."""
    return oread_world.open_client
