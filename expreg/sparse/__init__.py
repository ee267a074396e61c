"""Sparse matrices as a pytree, and the products that solvers and sketches need of any matrix."""

from expreg.sparse.convert import from_any, from_bcoo, from_dense, from_entries, from_scipy, to_csr
from expreg.sparse.matrix import (
    Matrix,
    Sparse,
    block,
    fold_blocks,
    row_norms,
    scale_rows,
    take_rows,
    to_dense,
    to_scipy,
)
from expreg.sparse.shared import Shared, by_share, gram, matvec, rmatvec, share

__all__ = [
    "Matrix",
    "Shared",
    "Sparse",
    "block",
    "by_share",
    "fold_blocks",
    "from_any",
    "from_bcoo",
    "from_dense",
    "from_entries",
    "from_scipy",
    "gram",
    "matvec",
    "rmatvec",
    "row_norms",
    "scale_rows",
    "share",
    "take_rows",
    "to_csr",
    "to_dense",
    "to_scipy",
]
