"""The columns that the rows of every experiment have."""

from expreg.types import Column

BASE: tuple[Column, ...] = (
    Column("cell", "string", "id of the cell"),
    Column("status", "string", "how the run ended"),
    Column("status_detail", "string", "more about it"),
    Column("experiment", "string", "what was computed"),
    Column("seed", "int64", "seed of the config"),
    Column("replicate", "int64", "number of the replicate"),
    Column("precision", "string", "f32 or f64"),
    Column("device", "string", "where it ran"),
    Column("steps", "int64", "steps made"),
    Column("seconds", "float64", "time on a lane"),
    Column("expreg_version", "string", "version of expreg"),
    Column("jax_version", "string", "version of JAX"),
    Column("attempt", "int64", "how often the cell was tried"),
)
