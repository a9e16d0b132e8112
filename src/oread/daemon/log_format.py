"""Format log records with structlog: for a person, or as JSON lines.

A module of its own because structlog costs 0.1 s to load, 0.2 where rich or
twisted are installed: `oread.daemon.logs` loads it once the service answers.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable
from typing import TextIO

import structlog

from oread.protocols.access_log import AccessRecord


def make_formatter(*, terminal: bool) -> logging.Formatter:
    """Make the formatter of a terminal, or of everything else."""
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    prepare: list[structlog.typing.Processor] = [structlog.processors.format_exc_info]
    if terminal:
        # Not rich's tracebacks: they print every local variable, secrets too.
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        prepare = []
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *prepare, renderer],
    )


def make_access_log(stream: TextIO) -> Callable[[AccessRecord], object]:
    """Make what logs each request as the event `request`, one JSON object a line."""
    log = structlog.wrap_logger(
        structlog.PrintLogger(stream),
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.JSONRenderer()],
    )

    def write(record: AccessRecord) -> None:
        began = datetime.datetime.fromtimestamp(record.began, datetime.UTC)
        log.info("request", timestamp=began.isoformat(), **record.fields())

    return write
