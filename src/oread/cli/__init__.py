"""The command line: one module per command, loaded when it is called.

A bare `oread call` loads neither the daemon nor its logs. This package alone
loads its modules by name, for that reason.

Exit status: 0 fine, 1 the peer failed, 2 usage. What a user can cause is one
line on stderr: what, and what to do. A reader of our output that goes ends it
quietly with 1, which click sees to.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence

import click

from oread.cli.errors import CommandError
from oread.errors import ApplicationError, EndpointError, RegistrationError

COMMANDS: Mapping[str, str] = {
    "serve": "Serve a registry until a signal; without arguments the demo set.",
    "call": "Send one message to an endpoint and print what comes back.",
    "listen": "Print what arrives at an endpoint, decoded; answer nothing.",
    "ping": "Probe a multicast group or a peer by UDP: who answers, how fast, what is lost.",
    "handlers": "List the events of a registry and their handlers.",
}
"""Name: short help. The command is the function of that name in `oread.cli.<name>`."""


class LazyGroup(click.Group):
    """Load a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names, loading nothing."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        """Load one command."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"oread.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """Write the list of commands from their short help, loading nothing."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 fine, 1 the peer failed, 2 usage.",
)
@click.version_option(package_name="oread", message="%(prog)s %(version)s")
@click.pass_context
def oread(context: click.Context) -> None:
    """Write a handler once; every socket can call it: TCP, HTTP, UDP."""
    if context.invoked_subcommand is None:
        raise click.UsageError(f"a command is needed: {', '.join(COMMANDS)}", context)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the status for the process to end with.

    Args:
        arguments: without the program's name; None takes the process's own.
    """
    try:
        status = oread.main(
            args=None if arguments is None else list(arguments), prog_name="oread", standalone_mode=False
        )
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "oread"
        return _fail(f"{error.format_message().rstrip('.')}; see '{path} --help'", 2)
    except CommandError as error:
        return _fail(error.format_message(), error.exit_code)
    except (ApplicationError, EndpointError, RegistrationError) as error:
        return _fail(str(error), 2)
    except (click.Abort, KeyboardInterrupt):
        return 130  # 128 + SIGINT, as a shell reports it
    return status if isinstance(status, int) else 0


def _fail(message: str, status: int) -> int:
    """Say in one line what went wrong."""
    click.echo(f"oread: {' '.join(message.split())}", err=True)
    return status
