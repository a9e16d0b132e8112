"""Answer with "Hello, World!" by one nginx process and `return 200`.

It writes nginx's settings below benchmarks/build and becomes nginx.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

SETTINGS = """
daemon off;
master_process off;
pid nginx.pid;
error_log stderr crit;
worker_rlimit_nofile 20000;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 600;
    default_type text/plain;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ return 200 "Hello, World!"; }}
    }}
}}
"""

if __name__ == "__main__":
    folder = Path(__file__).parents[1] / "build" / "nginx"
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "nginx.conf"
    settings.write_text(SETTINGS.format(port=int(sys.argv[1])))
    os.execvp("nginx", ["nginx", "-p", str(folder), "-c", str(settings)])
