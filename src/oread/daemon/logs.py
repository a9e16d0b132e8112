"""Set up the process's logs: every record to one stream.

The library logs by the standard library's logger `oread` and sets up nothing;
this is the daemon's choice. What a line looks like: `oread.daemon.log_format`.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import TextIO

from oread.protocols.access_log import AccessRecord


class LazyFormatter(logging.Formatter):
    """Load the real formatter with the first record, or when told to.

    Args:
        terminal: lines are for a person to read, not for a machine.
    """

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal
        self._formatter: logging.Formatter | None = None

    def load(self) -> logging.Formatter:
        """Return the real formatter; may be called from any thread."""
        if self._formatter is None:
            # An import statement at the top would delay the first answer by 0.1 to 0.2 s.
            module = importlib.import_module("oread.daemon.log_format")
            formatter: logging.Formatter = module.make_formatter(terminal=self._terminal)
            self._formatter = formatter
        return self._formatter

    def format(self, record: logging.LogRecord) -> str:
        """Return one record as text."""
        return self.load().format(record)


ACCESS_LOGS = ("common", "combined", "json")
"""The forms an access log can have."""


def make_access_log(form: str, stream: TextIO) -> Callable[[AccessRecord], object]:
    """Make what writes a line for each request.

    Args:
        form: one of `ACCESS_LOGS`; `json` is a structlog event, its fields those of the record.
        stream: written to and flushed line by line, never closed. Who does not read it holds up the service.
    """
    if form == "json":
        module = importlib.import_module("oread.daemon.log_format")
        write: Callable[[AccessRecord], object] = module.make_access_log(stream)
        return write
    line_of = AccessRecord.common if form == "common" else AccessRecord.combined

    def write_line(record: AccessRecord) -> None:
        stream.write(f"{line_of(record)}\n")
        stream.flush()

    return write_line


def configure_logging(stream: TextIO, *, level: int = logging.INFO) -> LazyFormatter:
    """Send every log record of the process to one stream.

    Args:
        stream: written to, never closed.
        level: the lowest one that is written.

    Returns:
        The formatter, to be loaded when there is time for it.
    """
    formatter = LazyFormatter(terminal=stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    return formatter
