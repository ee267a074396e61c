"""The command line: every command is a few lines over the Python interface."""

import gc
import logging
import shlex
import shutil
import sys
import tempfile
import traceback
import warnings
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from expreg import __version__
from expreg.core.engine.interrupt import end_at_once, handled, seconds
from expreg.errors import ExpregError, InputError, Interrupted, Problem, printable
from expreg.output import complain, document, guard, say

MAX_ROWS = 100
"""Rows of a query that a terminal shows; a file or a pipe gets all of them."""

app = typer.Typer(
    help="A JAX framework for sweeps of network width on GPUs, TPUs and CPUs.",
    add_completion=True,
    rich_markup_mode=None,  # plain help: it is short, fits every terminal and starts at once
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _completions(context: typer.Context, incomplete: str) -> list[str]:
    from expreg.starting import completions

    return completions(context.params.get("config"), incomplete)


def _outputs(incomplete: str) -> list[str]:
    from expreg.outputs import OUTPUTS

    return [name for name in OUTPUTS if name.startswith(incomplete)]


Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="key=value",
        help="Values over those of the config, by dotted path: training.tolerance=1e-4 sweep.product.n=8,16",
        show_default=False,
        autocompletion=_completions,
    ),
]
RunDirectory = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


@app.command(short_help="Write a config to start from.")
def init(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="[KIND]", help="threshold, convergence, concentration, capacity, regression or in_context."
        ),
    ] = "threshold",
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="A new file.  [default: KIND.yaml]", show_default=False)
    ] = None,
) -> None:
    """Write a commented config of an experiment to a new file: change it, and run it.

    KIND may also be the name of any other config that comes with expreg, such as quickstart or search.
    """
    from expreg.starting import written

    path = written(kind, file)
    say(f"{path} is there; next:", f"  expreg plan {shlex.quote(str(path))}", f"  expreg run {shlex.quote(str(path))}")


@app.command(short_help="Run a config, or resume it.")
def run(
    config: Config,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run directory.  [default: runs/<name>]")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Set an earlier run aside and start again.")] = False,
    reuse: Annotated[
        list[str] | None,
        typer.Option(metavar="RUN", help="Take cells that have finished in other runs: 'runs/*'. May be repeated."),
    ] = None,
    time_limit: Annotated[
        str | None, typer.Option(metavar="TIME", help="Stop after 90s, 30m, 2h or 1:30:00; the same command resumes.")
    ] = None,
    on: Annotated[
        str, typer.Option(metavar="ENGINE", help="local, ray or slurm: execution.engine in short.", show_default=False)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Run a config, or resume it: finished cells never run again.

    Ends with exit code 0; 2 if the input is wrong; 3 if some cells failed; 4 if the run directory cannot be used;
    75 if a signal or the time limit stopped it, and then the same command goes on where it was.
    """
    from expreg import api

    overrides = [*(overrides or ()), *([f"execution.engine={on}"] if on else [])]
    limit = None if time_limit is None else seconds(time_limit, "--time-limit")
    options: dict[str, Any] = {"fresh": fresh, "reuse": reuse or (), "time_limit": limit}
    found = api.run(config, overrides, out, progress=True, **options)
    # after the config was read: a mistake in it need not wait for JAX
    from expreg.core.engine.processes import follows

    if follows():
        return
    _say_verdicts(found, as_json=as_json)
    if found.failed:
        complain(f"{found.failed} cells failed; the same command tries them again")
        raise typer.Exit(3)


@app.command(short_help="Say what a config would run; write nothing.")
def plan(
    config: Config,
    overrides: Overrides = None,
    cells: Annotated[bool, typer.Option("--cells", help="List every cell.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a config would run: cells, programs, memory, work, expected time. Writes nothing."""
    from expreg import api, commands

    found = api.plan(config, overrides or (), cells=cells)
    lines = found.pop("lines", [])
    say(*(_json(found) if as_json else commands.plan_lines(found, lines)))


@app.command(short_help="Certify that gradient descent must converge.")
def certify(
    config: Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="A YAML file.", show_default=False)] = None,
    overrides: Overrides = None,
    arrays: Annotated[
        Path | None, typer.Option(help="Your own network in place of a config: an .npz file with X, y, W, a.")
    ] = None,
    activation: Annotated[str, typer.Option(help="Of your own network: exp, cosh or sinh.")] = "exp",
    scale: Annotated[float, typer.Option(help="Output scale of your own network.")] = 1.0,
    eps: Annotated[float, typer.Option(help="Residual at which steps are counted.")] = 0.05,
    basic: Annotated[bool, typer.Option("--basic", help="One radius for all neurons: simpler, asks for more.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say whether gradient descent must converge from a start, before any training (C.20)-(C.26).

    For every cell of a config, or for your own arrays: X (n, d), y (n,), W (d, m) and the signs a (m,). Prints the
    step size that is certified, the rate, the radius, the steps to eps, or which condition fails by what factor.
    """
    from expreg import api, commands

    if not eps > 0:
        raise InputError(Problem("E-RANGE", f"got {eps:g}, expected > 0", key="--eps"))
    if (config is None) == (arrays is None):
        raise InputError(Problem("E-USAGE", "expected either a config or --arrays FILE.npz", key="CONFIG"))
    wanted: dict[str, Any] = {"eps": eps, "refined": not basic}
    if arrays:
        with commands.named("--arrays"):
            found = [api.certificate_of_file(arrays, activation=activation, scale=scale, **wanted)]
    else:
        found = api.certificates(config or "", overrides or (), progress=True, **wanted)
    if as_json:
        say(*_json(found[0] if arrays else found))
        return
    from expreg.kinds.network.figures.certified import certificates_text

    say(*certificates_text(found).split("\n"))


@app.command(short_help="Say what is done in a run directory.")
def status(
    run: RunDirectory,
    follow: Annotated[bool, typer.Option("--watch", help="Go on until the run ends; Ctrl-C ends it earlier.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what is done in a run directory, also while the run goes on: cells by status, rate, time left, lanes."""
    from expreg import api
    from expreg.core.page import watch

    if follow and as_json:
        raise InputError(Problem("E-USAGE", "expected either --watch or --json", key="--watch"))
    if follow:
        watch.watch(run, api.status)
        return
    facts = api.status(run)
    say(*(_json(facts) if as_json else watch.lines(run, facts)))


@app.command(short_help="Stop what runs in a run directory.")
def cancel(run: RunDirectory) -> None:
    """Cancel the jobs of Slurm that run cells of a run; without any, ask the process of the run on this host to stop.

    What is finished stays stored, and the command of the run goes on where it was. Ends with exit code 2 if nothing
    runs there.
    """
    from expreg.backends import jobs

    say(jobs.cancel(run))


@app.command(short_help="Make report.html and figures/ of a run again.")
def report(
    run: RunDirectory,
    interactive: Annotated[
        bool, typer.Option("--interactive", help="Add explore.html: filter, sort and search all cells in a browser.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make summary.json, figures/ and report.html again from the rows that are there, also of a run in progress."""
    from expreg import api

    _say_verdicts(api.report(run, interactive=interactive), as_json=as_json)
    if interactive and not as_json:
        say(f"cells: {run / 'explore.html'}")


@app.command(short_help="Query the rows of a run with SQL.")
def query(
    run: RunDirectory,
    sql: Annotated[
        str, typer.Argument(metavar="SQL", help="Over the tables `cells` and `curves`.", show_default=False)
    ],
    as_json: AsJson = False,
) -> None:
    """Query the rows of a run with SQL (DuckDB); the tables are `cells` and `curves`.

    expreg query runs/quickstart "SELECT n, m, avg(E5::int) FROM cells GROUP BY ALL ORDER BY ALL"
    """
    from expreg import commands
    from expreg.core.store import export

    names, rows = export.query(run, sql, complain)
    if as_json:
        say(document([dict(zip(names, row, strict=True)) for row in rows], None))
        return
    terminal = sys.stdout is not None and sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else None
    say(*commands.answer_lines(names, rows, MAX_ROWS if terminal else None, width))
    if terminal and len(rows) > MAX_ROWS:
        complain(f"{len(rows)} rows; redirect the output, or add LIMIT, to see others")


@app.command(short_help="Write the rows of a run to one file.")
def export(
    run: RunDirectory,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="*.csv, *.parquet or *.npz", show_default=False)],
) -> None:
    """Write the rows of a run to one file: cells as .csv, cells and curves as .parquet or .npz."""
    from expreg.core.store.export import export as write

    say(str(write(run, file, complain)))


@app.command(short_help="Copy a run to an experiment tracker.")
def push(
    run: RunDirectory,
    to: Annotated[
        str,
        typer.Argument(metavar="TO", help="tensorboard:DIR, wandb, trackio or mlflow[:PROJECT]", show_default=False),
    ],
) -> None:
    """Copy a run to TensorBoard, Weights & Biases, trackio or MLflow.

    Curves are medians over the replicates of each setting; rows and page go along where the tracker takes them. What
    is pushed again is a further copy.

    expreg push runs/quickstart tensorboard:boards
    """
    from expreg import sinks

    say(f"{run} is copied: {sinks.push(run, to)}")


@app.command(short_help="Show how runs differ.")
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Two or more run directories.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Show the settings in which runs differ, and what they found side by side: counts, widths, exponents.

    Ends with whether the exponents differ from those of the first run.
    """
    from expreg.core.page import compare as side_by_side
    from expreg.core.page import terminal

    if len(runs) < 2:
        raise typer.BadParameter("one run; give two or more")
    settings, statistics = side_by_side.compare(runs)
    differences = side_by_side.differences(runs, list(statistics.columns))
    if as_json:
        found = {"settings": settings, "findings": statistics}
        rows = {name: dict(zip(of.index, of.to_numpy().tolist(), strict=True)) for name, of in found.items()}
        say(*_json({"runs": list(statistics.columns), **rows, "differences": differences}))
        return
    lines = settings.fillna("–").to_string().split("\n") if len(settings) else ["  none"]
    say("Settings that differ", *lines, "", "Findings", *statistics.fillna("–").to_string().split("\n"))
    for sentence in side_by_side.conclusions(differences):
        say("", *terminal.wrapped(sentence))


@app.command(short_help="Solve a regression problem of your own.")
def solve(
    matrix: Annotated[
        Path, typer.Argument(metavar="A", help="(n, d): .npy .npz .csv .parquet .mtx .svm", show_default=False)
    ],
    target: Annotated[
        Path | None, typer.Argument(metavar="[B]", help="(n,); or labels beside A.", show_default=False)
    ] = None,
    loss: Annotated[str, typer.Option(help="exponential, softmax, rescaled or projective.")] = "rescaled",
    activation: Annotated[str, typer.Option(help="exp, cosh or sinh.")] = "exp",
    solver: Annotated[str, typer.Option(help="auto, newton, gauss_newton, pcg, lbfgs or gd.")] = "auto",
    sketch: Annotated[str | None, typer.Option(help="leverage, countsketch, gaussian or uniform.")] = None,
    tol: Annotated[float, typer.Option(help="On the relative gradient norm.")] = 1e-10,
    weights: Annotated[str | None, typer.Option(help="Regulariser 1/2 ||diag(w) A x||^2: a number or a file.")] = None,
    start: Annotated[Path | None, typer.Option(help="A file with the x (d,) to start from.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="For everything random.")] = 0,
    starts: Annotated[int, typer.Option(help="Starts that are tried, the others at random; the best counts.")] = 1,
    max_steps: Annotated[int | None, typer.Option(help="Steps at the most.  [default: by the solver]")] = None,
    sketch_size: Annotated[int | None, typer.Option(help="Sampled rows.  [default: by the sketch]")] = None,
    no_header: Annotated[bool, typer.Option("--no-header", help="A .csv begins with numbers, not names.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write x to this file: .npy, .npz or .csv.")] = None,
    as_json: AsJson = False,
) -> None:
    """Minimise a regression loss of phi(A x) against b over x, for A and b in files.

    Prints how it ended, the loss, alpha, the softmax residual, the projective loss, max |z|, steps and x. Ends with
    exit code 0 also where it did not converge: the status says so; 2 if the input is wrong.

    expreg solve A.npy b.npy --loss softmax --out x.npy
    """
    from expreg import commands, registry

    registry.load_plugins()
    options = {"loss": loss, "activation": activation, "solver": solver, "sketch": sketch, "tol": tol, "key": seed}
    options |= {"starts": starts, "max_steps": max_steps, "sketch_size": sketch_size}
    found = commands.solve_files(
        matrix, target, weights=weights, start=start, out=out, header=not no_header, complain=complain, options=options
    )
    say(
        *(
            _json({**found._asdict(), "x": found.x})
            if as_json
            else commands.solution_lines(found, f"{loss}, {activation}")
        )
    )


@app.command(short_help="Time expreg side by side with its peers.")
def bench(
    suite: Annotated[
        str, typer.Argument(metavar="[SUITE]", help="regression, scaling, columns or sweep.")
    ] = "regression",
    quick: Annotated[bool, typer.Option("--quick", help="Small problems of the same kinds: a minute.")] = False,
    limit: Annotated[float | None, typer.Option(help="Seconds per solver and problem.  [default: 60]")] = None,
    only: Annotated[str | None, typer.Option(help="Problems with this in their name.")] = None,
    as_json: AsJson = False,
) -> None:
    """Time expreg side by side with what people use today, to the same answers, in one run.

    regression: expreg.solve, SciPy and optimistix on twelve problems, verified by a judge that belongs to no solver.
    scaling: seconds per step of expreg.solve against the number of non-zeros. columns: of a sampled Newton step
    against the number of columns. sweep: expreg run, NumPy, PyTorch and a vmapped JAX loop on gradient descent at
    eight sizes. Progress goes to standard error.
    """
    from expreg import benchmark

    found, text = benchmark.bench(suite, quick=quick, limit=limit, only=only, say=complain)
    say(*(_json(found) if as_json else text.split("\n")))


@app.command(short_help="Show versions, devices and settings; try one program.")
def doctor(as_json: AsJson = False) -> None:
    """Show versions, devices, precision and compile cache, try one program, and name what is wrong with its remedy."""
    from expreg import api

    facts = api.doctor()
    from expreg.core.page import terminal

    if as_json:
        say(*_json(facts))
        return
    wrong = facts.pop("trouble")
    shown = {k: f"{v:.3g}" if isinstance(v, float) else "–" if v is None else v for k, v in facts.items()}
    say(*terminal.pairs(shown), *(["", "trouble", *(f"  {line}" for line in wrong)] if wrong else []))


@app.command(short_help="Print the JSON Schema of a config, or of what a command prints.")
def schema(
    output: Annotated[
        str | None, typer.Argument(metavar="[OUTPUT]", help="A command that has --json.", autocompletion=_outputs)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write it to this file.", show_default=False)] = None,
) -> None:
    """Print a JSON Schema: of a config, for editors that complete and check YAML, or of what a command prints.

    expreg schema plan
    """
    from expreg import api
    from expreg.core.store.disk import check_output, replace

    found = api.json_schema(output)
    if out is None:
        say(*_json(found))
        return
    check_output(out, "--out")
    replace(out, f"{document(found)}\n".encode())


def _version(asked: bool) -> None:
    if asked:
        say(f"expreg {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    modules: Annotated[
        list[str] | None,
        typer.Option(
            "--import", metavar="MODULE", help="A module that registers your own records: mine.py or package.module."
        ),
    ] = None,
) -> None:
    if context.invoked_subcommand is None:
        say(*context.get_help().split("\n"))
        raise typer.Exit(2)
    del version
    if modules:
        from expreg.registry import load_module

        for module in modules:
            load_module(module)


def main() -> None:
    """Run the command line; turn every failure into its exit code and one line each."""
    resume = f"; resume with the same command:\n  {_same_command()}" if "run" in sys.argv[1:] else ""
    guard()
    warnings.showwarning = _warn
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it has much to say where it cannot keep its cache
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs tracebacks of what it raises, too
    # Imports and figures make a million objects that stay: looking through them every 700 costs a fifth of a report.
    gc.set_threshold(50_000)
    with handled(end_at_once(f"interrupted{resume}")):
        code = _exit_code()
    sys.exit(code)


def _exit_code() -> int:
    try:
        return _called()
    except Interrupted as stop:
        complain(f"{stop}:", f"  {_same_command()}")
        return stop.exit_code
    except ExpregError as failure:
        complain(*(failure.lines() if isinstance(failure, InputError) else [str(failure)]))
        return failure.exit_code
    except typer.Exit as end:
        return end.exit_code
    except Exception as bug:
        usage = getattr(bug, "format_message", None)  # of typer: unknown option, missing argument
        if usage is None:
            return _bug(bug)
        complain(f"error[E-USAGE] command line: {usage()}")
        return 2


def _called() -> int:
    code = app(_imports_first(sys.argv[1:]), standalone_mode=False) or 0
    if sys.stdout is not None:
        sys.stdout.flush()  # what others have printed: later nobody could say that the disk is full
    return code


def _imports_first(words: list[str]) -> list[str]:
    """Return the command line with every --import before the command, where the option belongs to all of them."""
    end = words.index("--") if "--" in words else len(words)
    first: list[str] = []
    others: list[str] = []
    rest = iter(words[:end])
    for word in rest:
        # without its value the option is an error of the command
        taken = [word, *islice(rest, word == "--import")]
        (first if word.startswith("--import=") or len(taken) > 1 else others).extend(taken)
    return first + others + words[end:]


def _same_command() -> str:
    """Return the command that resumes: this one, but --fresh would start again."""
    return printable(shlex.join(["expreg", *(word for word in sys.argv[1:] if word != "--fresh")]))


def _bug(bug: Exception) -> int:
    """Save the traceback and say where, in one line."""
    trace = "".join(traceback.format_exception(bug))
    try:
        with tempfile.NamedTemporaryFile("w", prefix="expreg-", suffix=".txt", delete=False) as file:
            file.write(trace)
        where = file.name
    except OSError:
        where = trace
    complain(f"error[E-BUG] {type(bug).__name__}: {str(bug)[:200]!r}; please report {where}")
    return 1


def _warn(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    # that a number overflowed on the way to a status is in the row; the line of our code would say nothing
    if not issubclass(category, RuntimeWarning):
        complain(f"warning: {message}")


def _say_verdicts(found: Any, *, as_json: bool = False) -> None:
    from expreg.core.store.table import coverage_text

    if as_json:
        say(*_json(found.summary))
        return
    counted = coverage_text(found.summary["counts"])
    say(*found.verdicts.split("\n"), "", counted, f"report: {found.directory / 'report.html'}")


def _json(value: Any) -> list[str]:
    return document(value).split("\n")
