"""One strict set-up for the whole suite: two CPU devices, 64-bit types, no silent promotion of rank."""

import datetime
import json
import os
import platform
import re
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("EXPREG_CACHE", os.path.join(tempfile.gettempdir(), "expreg-test-cache"))

import jax
import pytest

import expreg
from expreg.core.engine import devices

devices.configure()  # before a test starts JAX without it: with the compile cache no program is compiled twice
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "allow")
jax.devices()  # or a test that comes first and configures JAX would leave all others another number


@pytest.fixture(autouse=True)
def no_program_of_another_test():
    """Forget compiled programs: tests replace the records that they were built from."""
    yield
    if programs := sys.modules.get("expreg.core.engine.programs"):
        programs.forget()


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command line in this process; return exit code, output, errors."""
    from expreg import cli

    def called(*words):
        monkeypatch.setattr(sys, "argv", ["expreg", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        output = capsys.readouterr()
        return int(end.value.code or 0), output.out, output.err

    return called


@pytest.fixture
def of_a_script():
    """Return a training whose functions no other process can import, by its name."""
    scale = 3.0

    def init(key, rate):
        return jax.random.normal(key) * rate

    def step(state, rate):
        state = state - rate * state
        return state, {"loss": scale * state**2}

    return lambda name: expreg.Training(name, init, step, steps=5)


@pytest.fixture(scope="module")
def quickly_compiled():
    """Compile without optimisations: programs that run once take longer to compile well than they give back."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


class Soak:
    """How often a fault test tries: a few times in the suite, as often as docs/reliability.md says in `make soak`."""

    folder = os.environ.get("EXPREG_SOAK")

    def times(self, quick, full):
        return full if self.folder else quick

    @staticmethod
    def peak(*, reset=False):
        """Return the most bytes of memory that were resident since it was last reset, 0 where nobody says."""
        try:
            if reset:
                Path("/proc/self/clear_refs").write_text("5")
            status = Path("/proc/self/status").read_text()
        except OSError:
            return 0.0
        return 1024.0 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])

    def figure(self, name, title, **numbers):
        """Keep what `make soak` found, a row of the table in docs/reliability.md."""
        if self.folder:
            machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, jax {jax.__version__}"
            kept = {"title": title, "numbers": numbers, "date": str(datetime.date.today()), "machine": machine}
            Path(self.folder).mkdir(parents=True, exist_ok=True)
            (Path(self.folder) / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")


@pytest.fixture(autouse=True, scope="module")
def no_module_of_another_file():
    """Forget the modules that registered something: plans of other tests do not remember them."""
    from expreg import registry

    before = dict(registry._modules)
    yield
    registry._modules.clear()
    registry._modules.update(before)


@pytest.fixture(autouse=True)
def no_training_of_another_test():
    """Forget the trainings that a test registered: tables of keys and schemas are those of the package."""
    from expreg.kinds import EXPERIMENTS

    before = set(EXPERIMENTS)
    yield
    for name in [name for name, found in EXPERIMENTS.items() if found.remembered and name not in before]:
        del EXPERIMENTS[name]


@pytest.fixture
def soak():
    return Soak()


def pytest_collection_modifyitems(items):
    """Mark the tests that `make soak` runs at length: those that ask for the fixture."""
    for item in items:
        if "soak" in getattr(item, "fixturenames", ()):
            item.add_marker("soak")
