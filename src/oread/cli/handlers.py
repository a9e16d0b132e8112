"""`oread handlers`: list what a registry serves."""

from __future__ import annotations

import click
import msgspec

from oread.cli.application import load_registry
from oread.cli.options import APP_HELP
from oread.daemon.demo import make_demo_registry
from oread.dispatch.schema import answers_messages, event_schema
from oread.registry import HandlerInfo

COLUMNS = ("event", "kind", "payload", "methods", "handler")


@click.command()
@click.option("--app", metavar="MODULE:NAME", help=APP_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, with the schema of each.")
def handlers(app: str | None, *, as_json: bool) -> None:
    """List the events of a registry and their handlers, in order.

    Without --app: those of the demo set.
    """
    registry = make_demo_registry() if app is None else load_registry(app)
    infos = registry.handlers()
    click.echo(msgspec.json.encode([_as_dict(info) for info in infos]) if as_json else _as_table(infos))


def _as_dict(info: HandlerInfo) -> dict[str, object]:
    return {
        "event": info.event,
        "handler": info.name,
        "kind": info.kind,
        "payload": info.payload,
        "methods": info.methods,
        "exposed": info.exposed,
        "once": info.once,
        "schema": event_schema(info) if answers_messages(info) else None,
    }


def _as_table(infos: list[HandlerInfo]) -> str:
    rows = [COLUMNS, *(_as_row(info) for info in infos)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _as_row(info: HandlerInfo) -> tuple[str, ...]:
    return (info.event, info.kind, info.payload or "-", ",".join(info.methods or ()) or "any", info.name)
