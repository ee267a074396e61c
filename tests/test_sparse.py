"""Sparse products against BCOO and NumPy; bad indices named; every route gives the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.sparse import BCOO
from scipy import sparse as scipy_sparse

import expreg
from expreg import sparse
from expreg.errors import InputError
from expreg.solver import method
from expreg.sparse import matrix, passes

pytestmark = pytest.mark.usefixtures("quickly_compiled")
N, D = 37, 11


def dense(seed: int = 0, density: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(N, D)) * (rng.random((N, D)) < density)
    A[5] = 0  # an empty row, and an empty column
    A[:, 4] = 0
    return A


ROUTES = {
    "scipy": lambda A: sparse.from_scipy(scipy_sparse.csr_array(A)),
    "csc": lambda A: sparse.from_scipy(scipy_sparse.csc_matrix(A)),
    "coo": lambda A: sparse.from_scipy(scipy_sparse.coo_array(A)),
    "dok": lambda A: sparse.from_scipy(scipy_sparse.dok_array(A)),
    "bsr": lambda A: sparse.from_scipy(scipy_sparse.bsr_array(A)),
    "bcoo": lambda A: sparse.from_bcoo(BCOO.fromdense(A)),
    "dense": sparse.from_dense,
}


@pytest.mark.parametrize("route", ROUTES)
def test_every_format_is_read_exactly(route):
    found = ROUTES[route](dense())
    assert isinstance(found.data, np.ndarray)  # on the host, whatever the precision of JAX
    assert found.nnz >= np.count_nonzero(dense())
    np.testing.assert_array_equal(sparse.to_dense(found), dense())
    np.testing.assert_array_equal(sparse.to_scipy(found).toarray(), dense())


def wide() -> np.ndarray:
    """Rows of 1 to 3 entries: their Gram matrix is scattered entry by entry."""
    rng = np.random.default_rng(4)
    A = np.zeros((300, 100))
    for row in A:
        row[rng.choice(100, size=rng.integers(1, 4), replace=False)] = rng.normal()
    return A


def ragged() -> np.ndarray:
    """One row of 60 entries, longer than a piece, among rows of two."""
    rng = np.random.default_rng(5)
    A = rng.normal(size=(50, 64)) * (rng.random((50, 64)) < 0.03)
    A[7, :60] = rng.normal(size=60)
    return A


MATRICES = {"small": dense, "wide": wide, "ragged": ragged}


def products(M, x, y, w, some):
    return {
        "matvec": sparse.matvec(M, x),
        "rmatvec": sparse.rmatvec(M, y),
        "gram": sparse.gram(M, w),
        "row_norms": sparse.row_norms(M),
        "scale_rows": sparse.to_dense(sparse.scale_rows(M, w)),
        "take_rows": sparse.take_rows(M, some),
    }


def vectors(A: np.ndarray) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(1)
    return rng.normal(size=A.shape[1]), rng.normal(size=A.shape[0]), rng.normal(size=A.shape[0])


@pytest.mark.parametrize(("kind", "stored"), [(kind, True) for kind in MATRICES] + [("small", False)])
def test_products_agree_with_bcoo_and_on_the_host_with_numpy(kind, stored, monkeypatch):
    monkeypatch.setattr(matrix, "_BLOCK", 2**11)  # several blocks, the last one overlapping
    A, some = MATRICES[kind](), np.array([7, 0, 7, 5])
    x, y, w = vectors(A)
    host = sparse.from_dense(A)
    for found, expected in ((sparse.matvec(host, x), A @ x), (sparse.rmatvec(host, y), A.T @ y)):
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)
    found = jax.jit(products)(sparse.from_dense(A) if stored else A, x, y, w, some)
    oracle = BCOO.fromdense(A)
    np.testing.assert_allclose(found["matvec"], oracle @ x, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(found["rmatvec"], oracle.T @ y, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(found["gram"], A.T @ np.diag(w) @ A, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(found["row_norms"], np.linalg.norm(A, axis=1), rtol=1e-13)
    np.testing.assert_allclose(found["scale_rows"], np.diag(w) @ A, rtol=1e-14)
    np.testing.assert_array_equal(found["take_rows"], A[some])


def test_pieces_are_cut_where_rows_are_long():
    by_row = {kind: sparse.from_dense(make()).by_row for kind, make in MATRICES.items()}
    assert by_row["wide"].aligned
    assert by_row["wide"].values.shape == (3, 300)
    assert not by_row["ragged"].aligned
    assert by_row["ragged"].values.size < 64 * 50 / 4  # not padded to the longest row


def test_a_matrix_without_entries_is_zero():
    A = jax.tree.map(jnp.asarray, sparse.from_dense(np.zeros((4, 3))))
    np.testing.assert_array_equal(sparse.matvec(A, jnp.ones(3)), np.zeros(4))
    for shape in ((4,), (4, 2), (4, 0)):
        np.testing.assert_array_equal(sparse.rmatvec(A, jnp.ones(shape)), np.zeros((3, *shape[1:])))
    np.testing.assert_array_equal(sparse.gram(A, jnp.ones(4)), np.zeros((3, 3)))


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("kind", MATRICES)
def test_products_of_shares_are_those_of_the_matrix_with_zeros_below(kind, stored):
    A = np.vstack([MATRICES[kind](), np.zeros((31, MATRICES[kind]().shape[1]))])  # some blocks are empty
    shared = sparse.share(sparse.from_dense(A) if stored else A, 16)
    below = -len(A) % 16
    assert shared.shape == A.shape
    assert below
    x, *others = vectors(A)
    y, w = (np.append(vector, np.ones(below)) for vector in others)

    def all_products(M):
        return sparse.matvec(M, x), sparse.rmatvec(M, y), sparse.rmatvec(M, y[:, None]), sparse.gram(M, w)

    z, right, column, gram = jax.jit(all_products)(shared)
    np.testing.assert_allclose(z, np.append(A @ x, np.zeros(below)), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(right, A.T @ others[0], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(column[:, 0], right, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(gram, A.T @ np.diag(others[1]) @ A, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(method.column_norms(shared), method.column_norms(jnp.asarray(A)), rtol=1e-13)


def test_blocks_of_threads_give_what_one_thread_gives(monkeypatch):
    A, rng = sparse.from_dense(dense()), np.random.default_rng(2)
    x, y = rng.normal(size=D), rng.normal(size=N)
    one = sparse.matvec(A, x), sparse.rmatvec(A, y)
    monkeypatch.setattr(passes, "MANY", 0)
    monkeypatch.setattr(passes, "cores", lambda: 3)
    np.testing.assert_array_equal(sparse.matvec(A, x), one[0])
    np.testing.assert_allclose(sparse.rmatvec(A, y), one[1], rtol=1e-13)


def test_vmap_over_values_and_over_vectors_and_derivatives():
    A, rng = jax.tree.map(jnp.asarray, sparse.from_dense(dense())), np.random.default_rng(3)
    X, Y = jnp.asarray(rng.normal(size=(4, D))), jnp.asarray(rng.normal(size=(4, N)))
    np.testing.assert_allclose(jax.vmap(sparse.matvec, (None, 0))(A, X), X @ dense().T, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(jax.vmap(sparse.rmatvec, (None, 0))(A, Y), Y @ dense(), rtol=1e-12, atol=1e-14)
    scaled = jax.vmap(lambda c: sparse.matvec(sparse.scale_rows(A, c), X[0]))(Y)
    np.testing.assert_allclose(scaled, Y * (dense() @ X[0]), rtol=1e-12, atol=1e-14)
    slope = jax.grad(lambda x: jnp.sum(jnp.exp(sparse.matvec(A, x))))(X[0])
    np.testing.assert_allclose(slope, dense().T @ np.exp(dense() @ X[0]), rtol=1e-12)


def test_unsorted_rows_of_scipy_are_sorted():
    A = scipy_sparse.csr_array(([1.0, 2.0, 3.0], [2, 0, 1], [0, 2, 3]), shape=(2, 3))
    np.testing.assert_array_equal(sparse.to_dense(sparse.from_scipy(A)), [[2, 0, 1], [0, 3, 0]])


def broken(data, indices, indptr) -> scipy_sparse.csr_array:
    """A matrix that SciPy would not have made: its parts replaced afterwards."""
    A = scipy_sparse.csr_array(np.eye(3))
    A.data, A.indices, A.indptr = (np.asarray(part) for part in (data, indices, indptr))
    return A


ENTRIES, CSR = sparse.from_entries, lambda *parts: sparse.from_scipy(broken(*parts))
BAD = {
    "column index 5 at entry 1, expected 0..2": (CSR, [1.0, 1, 1], [0, 5, 2], [0, 1, 2, 3]),
    "column index -1 at entry 0": (CSR, [1.0, 1, 1], [-1, 1, 2], [0, 1, 2, 3]),
    "index pointer 1 is 2": (CSR, [1.0, 1, 1], [0, 1, 2], [0, 2, 1, 3]),
    "the last index pointer is 2": (CSR, [1.0, 1, 1], [0, 1, 2], [0, 1, 2, 2]),
    "repeats the one before": (CSR, [1.0, 1, 1], [0, 1, 1], [0, 1, 3, 3]),
    "entry 1 at (0, 1)": (ENTRIES, [1.0, 1], [1, 0], [0, 1], (2, 2)),
    "row index 7 at entry 0": (ENTRIES, [1.0], [7], [0], (2, 2)),
    "float64": (ENTRIES, [1.0], [0.5], [0], (2, 2)),
    "of one length": (ENTRIES, [1.0, 2.0], [0], [0], (2, 2)),
    "A[1,2]: got nan": (ENTRIES, [np.nan], [1], [2], (3, 3)),
    "complex128": (ENTRIES, [1j], [0], [0], (1, 1)),
    "got shape (3,)": (sparse.from_dense, np.ones(3)),
}


@pytest.mark.parametrize("named", BAD)
def test_bad_matrices_are_named(named):
    read, *parts = BAD[named]
    with pytest.raises(InputError) as refusal:
        read(*parts)
    assert named in str(refusal.value)


COO = scipy_sparse.coo_array(([1.0, 2, 3], ([0, 1, 1], [0, 2, 2])), shape=(3, 3))
FAR = scipy_sparse.coo_array(np.eye(3))
FAR.coords = (np.array([0, 1, 10**9]), np.array([0, 1, 2]))
CSC, BSR = scipy_sparse.csc_array(np.eye(3)), scipy_sparse.bsr_array(np.eye(4), blocksize=(2, 2))
CSC.indices = np.array([0, 10**9, 2])
BSR.indices = np.array([0, 10**9])
UNSOUND = {
    "entry 2 at (1, 2) repeats the one before": COO,
    "row index 1000000000 at entry 2, expected 0..2": FAR,
    "row index 1000000000 at entry 1, expected 0..2": CSC,
    "blocks are not sound": BSR,
    "repeats the one": broken([1.0, 1, 1], [0, 1, 1], [0, 1, 3, 3]),
    "got shape (3,), expected (n, d)": scipy_sparse.coo_array(np.ones(3)),
}


@pytest.mark.parametrize("named", UNSOUND)
def test_unsound_matrices_are_named_before_scipy_converts_them(named):
    for call in (sparse.to_csr, lambda A: expreg.solve(A, np.ones(A.shape[0]))):
        with pytest.raises(InputError) as refusal:
            call(UNSOUND[named])
        assert named in str(refusal.value)


@pytest.mark.parametrize("kind", ["csr", "csc", "bsr", "coo", "dia", "lil", "dok"])
def test_matrices_of_every_format_become_the_same_csr(kind):
    A = scipy_sparse.csr_array(dense())
    unsorted = scipy_sparse.csr_array(([1.0, 2.0, 3.0], [2, 0, 1], [0, 2, 3]), shape=(2, 3))
    np.testing.assert_array_equal(sparse.to_csr(A.asformat(kind)).toarray(), dense())
    assert sparse.to_csr(unsorted).indices.tolist() == [0, 2, 1]
    assert unsorted.indices.tolist() == [2, 0, 1]  # what was given is left as it is
