"""One strict set-up for the whole suite: two CPU devices, 64-bit types, no silent promotion of rank."""

import os
import sys
import tempfile

os.environ.setdefault("EXPREG_CACHE", os.path.join(tempfile.gettempdir(), "expreg-test-cache"))

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "allow")


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


@pytest.fixture(scope="module")
def quickly_compiled():
    """Compile without optimisations: programs that run once take longer to compile well than they give back."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
