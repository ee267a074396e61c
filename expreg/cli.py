"""The command line: every command is a few lines over the Python interface."""

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from expreg import __version__
from expreg.errors import ExpregError, InputError

app = typer.Typer(
    help="Measure what a theorem about over-parameterised training says at the sizes you can run.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[key=value ...]", help="Values over the config, by dotted path.", show_default=False),
]
RunDirectory = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


@app.command()
def run(
    config: Config,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run directory.  [default: runs/<name>]")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Set an earlier run aside and start again.")] = False,
) -> None:
    """Run a config, or resume it: finished cells never run again."""
    from expreg import api, report

    found = api.run(config, overrides or (), out, fresh=fresh, progress=True)
    typer.echo(report.verdict_table(found.summary))
    typer.echo(f"\nreport: {found.directory / 'report.html'}")
    if api.failed(found):
        typer.echo(f"{api.failed(found)} cells failed; the same command tries them again", err=True)
        raise typer.Exit(3)


@app.command()
def plan(
    config: Config,
    overrides: Overrides = None,
    cells: Annotated[bool, typer.Option("--cells", help="List every cell.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a config would run: cells, programs, memory, expected time. Writes nothing."""
    from expreg import api

    told = api.plan(config, overrides or (), cells=cells)
    typer.echo(json.dumps(told, indent=1) if as_json else _plan_text(told))


def _plan_text(told: Mapping[str, Any]) -> str:
    from expreg.sweep.progress import duration

    lines = [
        f"{told['name']}: {told['cells']} cells in {told['programs']} programs",
        *(f"  {axis}: {_values(values)}" for axis, values in told["axes"].items()),
        f"largest cell    {told['bytes_per_lane'] / 2**20:.1f} MiB in a lane, {told['lanes']} lanes at most",
        f"work            {told['flops']:.2g} flops",
        f"expected time   {duration(told['seconds'])} on {told['devices']} x {told['device_kind']}, "
        f"{duration(told['compile_seconds'])} of it compiling if nothing is cached",
    ]
    for listed in told.get("list", []):
        settings = " ".join(f"{name}={value}" for name, value in listed["axes"].items())
        lines.append(f"{listed['cell']}  {settings}")
    return "\n".join(lines)


def _values(values: list[Any]) -> str:
    shown = [f"{v:g}" if isinstance(v, float) else str(v) for v in values]
    return ", ".join(shown if len(shown) <= 12 else [*shown[:8], "...", shown[-1]]) + f"  ({len(values)})"


@app.command()
def status(run: RunDirectory, as_json: AsJson = False) -> None:
    """Say what is done in a run directory."""
    from expreg import api

    told = api.status(run)
    if as_json:
        typer.echo(json.dumps(told, indent=1, default=str))
        return
    typer.echo(f"{run}: {told['done']} of {told['planned']} cells done" + (", running now" if told["locked"] else ""))
    for name, count in told["by_status"].items():
        typer.echo(f"  {name:10s} {count}")
    for line in told["damaged"]:
        typer.echo(f"  damaged: {line}")


@app.command()
def report(run: RunDirectory) -> None:
    """Make summary, figures and report.html of a run again, from its rows."""
    from expreg import api
    from expreg import report as reporting

    found = api.report(run)
    typer.echo(reporting.verdict_table(found.summary))
    typer.echo(f"\nreport: {found.directory / 'report.html'}")


@app.command()
def query(
    run: RunDirectory,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="Over the tables `cells` and `curves`.")],
    as_json: AsJson = False,
) -> None:
    """Query the rows of a run with SQL (DuckDB)."""
    from expreg.sweep import table

    frame = table.query(run, sql)
    typer.echo(frame.to_json(orient="records") if as_json else frame.to_string(index=False, max_rows=100))


@app.command()
def export(
    run: RunDirectory,
    file: Annotated[Path, typer.Argument(metavar="FILE", help=".csv, .parquet or .npz")],
) -> None:
    """Write the rows of a run to one file."""
    from expreg.sweep import table

    typer.echo(table.export(run, file))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Two or more run directories.")],
) -> None:
    """Show the settings in which runs differ, and their statistics side by side."""
    from expreg.sweep import table

    differences, statistics = table.compare(runs)
    typer.echo("settings that differ")
    typer.echo(differences.to_string() if len(differences) else "  none")
    typer.echo("\nstatistics")
    typer.echo(statistics.to_string())


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Show devices, versions, precision and compile cache, and try one program."""
    from expreg import api

    told = api.doctor()
    if as_json:
        typer.echo(json.dumps(told, indent=1, default=str))
        return
    width = max(map(len, told))
    for name, value in told.items():
        typer.echo(f"{name:{width}s}  {value}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of a config, for editors."""
    from expreg import api

    typer.echo(json.dumps(api.json_schema(), indent=1))


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"expreg {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


def main() -> None:
    """Run the command line; turn every failure into its exit code and one line each."""
    try:
        sys.exit(app(standalone_mode=False))
    except ExpregError as failure:
        lines = failure.lines() if isinstance(failure, InputError) else [str(failure)]
        print(*lines, sep="\n", file=sys.stderr)
        sys.exit(failure.exit_code)
    except typer.Exit as end:
        sys.exit(end.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(75)
    except BrokenPipeError:  # the reader of our output has gone (`| head`): nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as bug:
        usage = getattr(bug, "format_message", None)  # click's own errors: unknown option, missing argument
        if usage is not None:
            print(f"error[E-USAGE] command line: {usage()}", file=sys.stderr)
            sys.exit(2)
        sys.exit(_bug(bug))


def _bug(bug: Exception) -> int:
    """Save the traceback and say where, in one line."""
    with tempfile.NamedTemporaryFile("w", prefix="expreg-", suffix=".txt", delete=False) as file:
        file.write("".join(traceback.format_exception(bug)))
    print(f"error[E-BUG] {type(bug).__name__}: {str(bug)[:200]!r}; please report {file.name}", file=sys.stderr)
    return 1
