"""Run the benchmarks from the command line: `python -m benchmarks`."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.load import generator_name
from benchmarks.machine import describe
from benchmarks.measure import bench, measure
from benchmarks.plot import write_plot
from benchmarks.process import Cores
from benchmarks.report import show, write_json
from benchmarks.results import Result
from benchmarks.suites import SUITES, Case, Settings, cases_of
from benchmarks.table import peer_names

QUICK_ROUNDS = 3
QUICK_SECONDS = 0.15


def _end(_number: int, _frame: FrameType | None) -> None:
    """Leave by way of every `finally`, so that no server is left behind."""
    sys.exit(1)


def _names(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    for name in names:
        if name not in peer_names():
            raise click.BadParameter(f"{name!r} is not one of {', '.join(peer_names())}")
    return names


def _numbers(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in value.split(",") if word.strip())
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers such as 64,1024") from None


@click.command()
@click.argument("suites", nargs=-1, type=click.Choice(SUITES))
@click.option("--peers", default="", callback=_names, help="Only these, by comma; default all.")
@click.option("--sizes", default="", callback=_numbers, help="Message sizes in bytes, by comma.")
@click.option("--connections", default="", callback=_numbers, help="Numbers of connections, by comma.")
@click.option("--depth", "depths", default="", callback=_numbers, help="Messages in flight, by comma.")
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1, 1000))
@click.option(
    "--seconds", default=0.3, show_default=True, type=click.FloatRange(0.05, 600), help="Per round."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write everything as JSON.")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="Write charts as SVG.")
@click.option("--quick", is_flag=True, help="Fewer and shorter rounds: within a minute.")
def main(
    suites: tuple[str, ...],
    peers: tuple[str, ...],
    sizes: tuple[int, ...],
    connections: tuple[int, ...],
    depths: tuple[int, ...],
    rounds: int,
    seconds: float,
    json_file: Path | None,
    plot_file: Path | None,
    quick: bool,  # noqa: FBT001 - click passes options by name
) -> None:
    """Measure oread beside its peers; all SUITES when none is named."""
    signal.signal(signal.SIGTERM, _end)
    settings = Settings(
        peers=peers,
        sizes=sizes,
        connections=connections,
        depths=depths,
        rounds=min(rounds, QUICK_ROUNDS) if quick else rounds,
        seconds=min(seconds, QUICK_SECONDS) if quick else seconds,
        quick=quick,
    )
    console = Console()
    facts = describe(Cores.of_this_machine())
    facts["echo load by"] = generator_name()
    for name, fact in facts.items():
        console.print(f"{name}: {fact}", markup=False, highlight=False, soft_wrap=True)
    chosen = [suite for suite in SUITES if not suites or suite in suites]
    results = _run(chosen, settings, console)
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    if json_file is not None:
        write_json(json_file, facts, command, results)
    if plot_file is not None:
        write_plot(
            plot_file, results, f"{facts['cpu']}, {facts['system']}, commit {facts['commit']}: {command}"
        )
    if not any(result.samples for result in results):
        raise click.ClickException("nothing could be measured; the reasons stand above")


def _run(suites: list[str], settings: Settings, console: Console) -> list[Result]:
    plan = {suite: cases_of(suite, settings) for suite in suites}
    results = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    steps = sum(_steps(case) for cases in plan.values() for case in cases)
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=steps)
        for cases in plan.values():
            with bench(_step(bar, task)) as table:
                for case in cases:
                    if not case.trials:
                        continue
                    results.append(measure(case, table))
                    show(results[-1], console)
    return results


def _step(bar: Progress, task: object) -> Callable[[str], None]:
    def step(description: str) -> None:
        bar.update(task, advance=1, description=description)  # type: ignore[arg-type, unused-ignore]

    return step


def _steps(case: Case) -> int:
    return case.rounds * len(case.trials)


if __name__ == "__main__":
    main()
