"""Set up the process's logs: every record to one stream.

The library logs by the standard library's logger `oread` and sets up nothing;
this is the daemon's choice. What a line looks like: `oread.daemon.log_format`.
"""

from __future__ import annotations

import importlib
import logging
from typing import TextIO


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
