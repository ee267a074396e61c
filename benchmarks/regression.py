"""Time `expreg.solve` side by side with SciPy and optimistix on twelve problems, then against the number of non-zeros.

    python benchmarks/regression.py            (or: expreg bench regression; expreg bench scaling)

All solvers in one run, in float64, to the same accuracy, verified by a judge that belongs to none of them: see
`expreg/benchmark/judge.py` for what it demands and `expreg/benchmark/peers.py` for what everyone is given. Takes an
hour at most and about 6 GiB; optimistix takes part if it is installed (extra `bench`).
"""

import sys

from expreg.commands import SUITES, bench


def main() -> None:
    """Print both tables; progress goes to standard error."""
    for suite in SUITES:
        _, text = bench(suite, quick="--quick" in sys.argv, limit=None, only=None, say=_progress)
        print(f"{suite}\n{text}\n", flush=True)


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
