"""Process concerns around a service: signals, logs, limits, the demo set.

The daemon is a caller of the library like any other: what it does with a
process, an embedder does in their own way.
"""

from __future__ import annotations

from oread.daemon.demo import DEMO_ENDPOINTS, make_demo_registry
from oread.daemon.logs import ACCESS_LOGS
from oread.daemon.run import run_daemon

__all__ = ["ACCESS_LOGS", "DEMO_ENDPOINTS", "make_demo_registry", "run_daemon"]
