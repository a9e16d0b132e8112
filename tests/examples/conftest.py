"""Load the programs of `examples/`, which are no package."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Load one example by its path without the ending."""

    def load_example(path: str) -> ModuleType:
        name = f"example_{path.replace('/', '_')}"
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{path}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)  # annotations are looked up there
        spec.loader.exec_module(module)
        return module

    return load_example
