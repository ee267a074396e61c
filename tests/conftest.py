"""One strict set-up for the whole suite: two CPU devices, 64-bit types, no silent promotion of rank."""

import os
import tempfile

os.environ.setdefault("EXPREG_CACHE", os.path.join(tempfile.gettempdir(), "expreg-test-cache"))

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "allow")


@pytest.fixture(scope="module")
def quickly_compiled():
    """Compile without optimisations: programs that run once take longer to compile well than they give back."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
