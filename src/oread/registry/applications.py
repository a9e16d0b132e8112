"""ASGI applications as the registry holds them: one handler for all their paths.

Not here: running them (the listeners of HTTP), and their lifespan.
Source: ASGI 3.0, https://asgi.readthedocs.io/en/latest/specs/main.html.
"""

from __future__ import annotations

import inspect

from oread.dispatch import Application
from oread.errors import HandlerError, RegistrationError
from oread.messages import HttpRequest

TAIL = "{rest:path}"
"""What stands behind the prefix of an application."""


class MountedApplication:
    """Stand for an application where handlers are listed.

    Raises:
        RegistrationError: it can't be called with scope, receive and send.
    """

    def __init__(self, application: Application) -> None:
        if not callable(application) or inspect.isclass(application):
            raise RegistrationError(f"{application!r} is no ASGI application: it can't be called")
        try:
            inspect.signature(application).bind({}, None, None)
        except ValueError:
            pass  # it has no signature that could be read: only calling it tells
        except TypeError as error:
            raise RegistrationError(
                f"{application!r} is no ASGI 3 application: it is called with (scope, receive, send), {error}"
            ) from error
        self.application = application
        named = application if hasattr(application, "__qualname__") else type(application)
        self.__module__ = getattr(named, "__module__", "")
        self.__qualname__ = str(getattr(named, "__qualname__", "application"))

    def __eq__(self, other: object) -> bool:
        """Compare with the application, so that `off(event, application)` finds it."""
        return other is self.application or other is self

    def __hash__(self) -> int:
        return hash(id(self.application))

    async def __call__(self, request: HttpRequest) -> None:  # noqa: ARG002 - it tells where this can be called
        """Refuse: whoever gets here did not come by a socket of HTTP."""
        raise HandlerError(f"{self.__qualname__} is an application: it is called by HTTP only")
