"""Run the command line: `python -m oread`."""

from __future__ import annotations

import sys

from oread.cli import main

if __name__ == "__main__":
    sys.exit(main())
