"""The runtime of a service, for tests that hold listeners without one."""

from __future__ import annotations

import contextvars
from typing import Any

from oread.listeners.runtime import Failures, Runtime
from oread.reactor import Reactor, RunnerPool
from oread.registry import Registry


def make_runtime(reactor: Reactor, registry: Registry, **options: Any) -> Runtime:
    """Make what listeners share; nothing of it runs yet."""
    context = contextvars.copy_context()
    return Runtime(
        reactor=reactor,
        runners=RunnerPool(context),
        registry=registry,
        context=context,
        failures=Failures(reactor),
        **options,
    )
