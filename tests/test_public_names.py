"""The public names: what `import oread` gives, and that it is documented."""

from __future__ import annotations

import inspect
import subprocess
import sys

import oread

NAMES = [
    "ApplicationError",
    *("Attachment", "Failure", "HandlerAbandoned", "HandlerChange", "HandlerLeakWarning", "HandlerOptions"),
    *("Subscription", "SubscriptionOverflow", "SubscriptionStatistics"),
    *(
        "AccessRecord",
        "BadRequest",
        "Bound",
        "Busy",
        "Client",
        "CutShort",
        "Datagram",
        "DatagramLimits",
        "DrainReport",
        "Endpoint",
        "EndpointError",
        "FileReply",
    ),
    *(
        "HandlerCancelled",
        "HandlerError",
        "HandlerInfo",
        "Headers",
        "HttpLimits",
        "HttpRequest",
        "HttpsLimits",
    ),
    *("HttpResponse", "ItemStream", "Message", "MessageError", "NotAllowed", "NotFound", "OreadError"),
    "Peer",
    *("Registration", "RegistrationError", "Registry", "Reply", "ServerSentEvent", "Service", "SlowBody"),
    *("SequenceStatistics", "SequenceTracker"),
    *("DatagramCounters", "Datagrams", "Received", "open_datagram"),
    *("Statistics", "StreamLimits"),
    *("TimedOut", "TlsLimits", "TooLarge", "WebSocketMessage", "connect", "open_service", "serve"),
]


def test_the_public_names_are_these() -> None:
    """A name that comes or goes is a decision, not an accident."""
    assert sorted(oread.__all__) == sorted(NAMES)
    assert all(hasattr(oread, name) for name in NAMES)


def test_every_public_name_promises_something() -> None:
    """A docstring's first line is one sentence of at most 72 characters."""
    for name in NAMES:
        first_line = (inspect.getdoc(getattr(oread, name)) or "").partition("\n")[0]
        assert 0 < len(first_line) <= 72, name
        assert first_line[-1] in ".;", name


def test_importing_executes_nothing_and_stays_light() -> None:
    """The library loads neither the command line nor the logs, asyncio or rich."""
    heavy = ("asyncio", "click", "rich", "structlog", "oread.cli", "oread.daemon")
    code = f"import sys, oread; print([name for name in {heavy!r} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.strip() == "[]"
    assert result.stderr == ""


def test_a_command_loads_only_what_it_needs() -> None:
    """`oread --help` loads no command, and `oread call` no daemon."""
    code = (
        "import sys\nfrom oread.cli import main\nmain({arguments!r})\n"
        "ours = ('oread.cli.', 'oread.daemon', 'structlog')\n"
        "print(sorted(name for name in sys.modules if name.startswith(ours)))"
    )
    loaded = {}
    for arguments in (["--help"], ["call", "--help"]):
        result = subprocess.run(
            [sys.executable, "-c", code.format(arguments=arguments)],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        loaded[arguments[0]] = result.stdout.splitlines()[-1]
    assert loaded == {
        "--help": "['oread.cli.errors']",
        "call": "['oread.cli.call', 'oread.cli.errors', 'oread.cli.options']",
    }
