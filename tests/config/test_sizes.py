"""An upper bound on the number of rows is one: also for zips whose members' lengths are bounds themselves."""

from expreg.core.config import grid


def axis(name, size, values):
    return grid.Axis(name, (name,), size, lambda: tuple(values), "list")


def test_no_sweep_has_more_rows_than_its_size():
    n, m, r = axis("n", 5, [1, 2, 3]), axis("m", 3, [4, 5, 6]), axis("r", 2, [0, 1])
    zipped = grid.Block("zip", (n, m), ("zip",))
    both = grid.Block("product", (zipped, r), ("product",))
    for node, size in ((zipped, 5), (both, 10), (grid.Block("concat", (zipped, both), ("concat",)), 15)):
        assert grid.size(node) == size >= len(list(grid.rows(node)))
