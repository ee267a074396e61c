"""One strict set-up for the whole suite: two CPU devices, 64-bit types, no silent promotion of rank."""

import os
import tempfile

os.environ.setdefault("EXPREG_CACHE", os.path.join(tempfile.gettempdir(), "expreg-test-cache"))

import jax

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "allow")
