"""The experiment `in_context`: its rows against (G.2)-(G.11) by hand, its curves, its statuses, its bad input."""

import jax
import numpy as np
import pandas as pd
import pytest

import expreg
from expreg import data, shift
from expreg.core.stats.summary import Asked
from expreg.core.store.columns import NAMES
from expreg.errors import InputError
from expreg.kinds import in_context as kind
from expreg.kinds.in_context import program as in_context
from expreg.kinds.in_context import summary as analysis

SMALL = {
    "experiment": "in_context",
    "name": "small",
    "precision": "f64",
    "problem": {"sizes": 9, "noise": 0.2},
    "sweep": {
        "product": {
            "n": [12],
            "d": [3],
            "problem.radius": [0.7, 1.6],
            "problem.move": ["gd", "newton", "data"],
            "replicate": {"count": 8},
        }
    },
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A run of 48 cells of one program, with its report."""
    return expreg.run(SMALL, out=tmp_path_factory.mktemp("runs") / "small")


def test_a_row_is_what_the_checked_entrance_measures(small):
    cells = small.cells
    for moved in ("gd", "newton"):
        row = cells[cells["moved"] == moved].iloc[0]
        given = small.inputs(row["cell"])
        A, b, x = given["A"], given["b"], given["x0"]
        assert np.linalg.norm(A, 2) == pytest.approx(row["problem.radius"], rel=1e-12)
        assert np.linalg.norm(x) == pytest.approx(row["problem.radius"], rel=1e-12)
        assert b.sum() == pytest.approx(1, abs=1e-14)
        found = shift.measure(A, b, x, dx=step_by_hand(moved, A, b, x))
        for name, value in found._asdict().items():
            if name != "target_shift":
                assert row[name] == pytest.approx(value, rel=1e-6), (moved, name)


def step_by_hand(kind, A, b, x):
    """Return the full step on 1/2 ||u - <u,1> b||^2, by matrices."""
    n, u, P = len(b), np.exp(A @ x), np.eye(len(b)) - np.outer(b, np.ones(len(b)))
    J = P @ np.diag(u) @ A
    if kind == "newton":
        return -np.linalg.lstsq(J, P @ u, rcond=1e-12)[0]
    # (E.45) with the row sum bound of ||Gam||_inf, on the box |z_i| <= max |z|
    largest, gam = np.exp(2 * np.abs(A @ x).max()), b @ b
    lipschitz = largest * (n * gam + 1 + n * b.max() + b.sum() + n * gam) * np.linalg.norm(A, 2) ** 2
    exact = largest * (np.linalg.norm(P, 2) ** 2 + np.abs(P.T @ P).sum(axis=1).max()) * np.linalg.norm(A, 2) ** 2
    assert lipschitz >= exact * (1 - 1e-12)
    return -J.T @ (P @ u) / lipschitz


def test_curves_hold_every_size_and_the_row_the_largest(small):
    points = small.curves.merge(small.cells[["cell", "moved", "problem.radius"]], on="cell")
    assert (points.groupby("cell").size() == 9).all()
    first, last = (points[points["step"] == k].set_index("cell") for k in (1, 9))
    np.testing.assert_allclose(first["move"] / last["move"], 1e-3, rtol=1e-12)
    rows = small.cells.set_index("cell")
    for name in ("move", "shift", "bound_rows", "bound_radius"):
        np.testing.assert_allclose(last[name], rows.loc[last.index, name], rtol=1e-14)
    moved = points[points["moved"] == "data"]
    np.testing.assert_allclose(moved.groupby("cell")["move"].max(), moved.groupby("cell")["problem.radius"].first())


def test_no_bound_is_violated_and_the_summary_says_so(small):
    summary = small.summary
    assert summary["counts"]["instances"] == 48 * 9
    assert [group["group"]["moved"] for group in summary["groups"]] == ["gd", "newton", "data"]
    assert {verdict["verdict"] for verdict in summary["verdicts"]} == {"consistent"}
    assert all(verdict["reason"] for verdict in summary["verdicts"])
    compared = sum(r["instances"] for g in summary["groups"] for r in g["ratios"] if r["over"] == "all")
    assert small.verdicts.startswith(f"No bound is violated in {compared} comparisons; the tightest is")
    for group in summary["groups"]:
        whole = {r["bound"]: r for r in group["ratios"] if r["over"] == "all"}
        assert whole["tight"]["median"] > whole["rows"]["median"] > whole["radius"]["median"]
        assert group["slope"]["value"] == pytest.approx(1, abs=0.02)
        assert group["errors"]["G.3"] < 1e-12
        assert group["errors"]["G.5"] < 1e-9
        assert group["first_order"]["small"] < 0.01
    assert "Measured / bound by R" in (small.directory / "report.html").read_text()
    assert files(small) == {"shift", "ratios"}


def files(run):
    """Return the names of the figures of a run."""
    return {path.stem for path in (run.directory / "figures").iterdir()}


def test_a_wrong_bound_would_be_seen(small):
    cells, curves = small.cells, small.curves.copy()
    worst = curves["shift"].idxmax()
    curves.loc[worst, "bound_tight"] = 0.99 * curves.loc[worst, "shift"]
    found = analysis.summarise(cells, curves, Asked())
    wrong = [v for v in found["verdicts"] if v["verdict"] == "contradicts"]
    assert [(v["claim"], v["criterion"]) for v in wrong] == [("shift bound", "tight")]
    assert "1 of 144 instances violate it" in wrong[0]["reason"]


def test_a_shift_that_is_not_proportional_would_be_seen(small):
    curves = small.curves.copy()
    curves["shift"] **= 1.1
    found = analysis.summarise(small.cells, curves, Asked())
    slopes = [v for v in found["verdicts"] if v["claim"] == "proportional"]
    assert {v["verdict"] for v in slopes} == {"contradicts"}
    np.testing.assert_allclose([v["measured"] for v in slopes], 1.1, atol=0.01)


def test_an_infinite_bound_holds_and_a_missing_one_is_not_counted():
    points = pd.DataFrame({"shift": [1.0, 1.0, 0.0], "bound_tight": [np.inf, np.nan, 0.0]})
    np.testing.assert_array_equal(analysis.ratios(points, "tight"), [0.0, 0.0])


# --- growing contexts -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    config = {
        **SMALL,
        "name": "grown",
        "problem": {"kind": "attention", "layer": 2, "tokens": 24, "loss": "softmax", "move": "newton"},
        "sweep": {"product": {"n": [8], "problem.head": [2, 11], "problem.token": [40, 100, 200]}},
    }
    return expreg.run(config, out=tmp_path_factory.mktemp("runs") / "grown")


def test_the_update_by_a_token_is_that_of_the_head(grown):
    row = grown.cells.iloc[0]
    head = data.attention(int(row["layer"]), int(row["head"]))
    query = head.queries[int(row["token"])]
    before, after = (data.attention_row(head.keys[:count], query) for count in (8 + 9, 8 + 10))
    moved = after - np.append(before, 0)
    curve = grown.curves[(grown.curves["cell"] == row["cell"]) & (grown.curves["step"] == 10)].iloc[0]
    assert curve["update"] == pytest.approx(np.linalg.norm(moved), rel=1e-9)
    whole = after - np.append(data.attention_row(head.keys[:8], query), np.zeros(10))
    assert curve["path_update"] == pytest.approx(np.linalg.norm(whole), rel=1e-9)
    A = head.keys[: 8 + 10]
    J = np.diag(after) - np.outer(after, after)
    dx = A.T @ J @ moved / (1.25 * np.linalg.norm(head.keys[: 8 + 24], 2) ** 2)
    made = data.attention_row(A, query + dx) - after
    assert curve["cosine_gd"] == pytest.approx(made @ moved / np.linalg.norm(made) / np.linalg.norm(moved), rel=1e-6)


def test_newton_comes_closer_than_descent_and_no_step_is_an_answer(grown):
    cells = grown.cells
    assert (cells["cosine_newton"] > cells["cosine_gd"]).mean() > 0.8
    curves = grown.curves
    assert curves[["cosine_gd", "cosine_newton", "path_cosine_gd", "path_cosine_newton"]].abs().max().max() <= 1 + 1e-9
    assert len(curves) == 6 * 24
    np.testing.assert_allclose(cells["cosine_gd"], curves.groupby("cell")["cosine_gd"].median().loc[cells["cell"]])
    heads = [r for group in grown.summary["groups"] for r in group["closeness"]]
    assert [(r["layer"], r["head"], r["cells"]) for r in heads] == [(2, 2, 3), (2, 11, 3)]
    assert {"heads", "paths"} <= files(grown)


def settings_of(**problem):
    """Return the resolved settings of one cell."""
    plain = {**kind.PROBE["problem"], "n": 6, "d": 2, "sizes": 3, **problem}
    return {**kind.PROBE, "problem": plain}


def record_of(settings):
    """Return what a plain call of the program leaves, without the engine."""
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        static = in_context.signature(settings)
        return jax.device_get(jax.jit(in_context.program(static).init)(in_context.prepare(settings)))


def test_a_lane_does_not_depend_on_the_way_it_is_run(small):
    for replicate in (0, 7):
        settings = settings_of(n=12, d=3, sizes=9, noise=0.2, radius=0.7, move="newton") | {"replicate": replicate}
        alone = in_context.row(settings, record_of(settings))
        cells = small.cells
        chosen = (cells["moved"] == "newton") & (cells["problem.radius"] == 0.7) & (cells["replicate"] == replicate)
        for name in ("move", "shift", "bound_rows", "softmax_residual"):
            assert alone[name] == pytest.approx(cells[chosen][name].item(), rel=1e-9), name


def test_rows_have_the_declared_columns():
    head = {"kind": "attention", "layer": 2, "head": 2, "token": 40, "tokens": 2}
    rows = [in_context.row(settings, record_of(settings)) for settings in (settings_of(), settings_of(**head, d=32))]
    declared = [column.name for column in kind.IN_CONTEXT.columns()]
    curves = {f"curve_{column.name}" for column in kind.IN_CONTEXT.curves()}
    assert {name for row in rows for name in row} - set(NAMES) == {*declared, *curves}
    assert len(declared) == len(set(declared))


# --- other activations, bad input -----------------------------------------------------------------


def test_sinh_has_no_softmax_bound_and_a_cancelled_alpha_is_a_status():
    settings = settings_of(activation="sinh", move="data")
    record = record_of(settings)
    found = in_context.row(settings, record)
    assert found["status"] == "converged"
    assert found["bound_softmax"] is None
    assert found["shift"] <= found["bound_tight"] * (1 + 1e-9)
    cancelled = in_context.row(settings, {**record, "alpha_share": np.float64(1e-4)})
    assert cancelled["status"] == "collapsed"
    assert "alpha = <u, 1> is 0.0001 of <|u|, 1>" in cancelled["status_detail"]
    overflown = in_context.row(settings, {**record, "shift": np.float64(np.inf)})
    assert overflown["status"] == "nonfinite"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 1}, r"problem\.n: got 1, expected an integer in 2\.\."),
        ({"radius": 19.0}, r"problem\.radius: got R = 19: e\^\(2 R\^2\) overflows float64, expected at most 18\.84"),
        ({"radius": 7.0, "precision": "f32"}, r"overflows float32, expected at most 6\.66.*; use precision f64"),
        ({"activation": "sinh", "loss": "softmax"}, r"problem\.loss: got 'softmax', but with sinh"),
        ({"activation": "sinh", "tokens": 4}, r"problem\.tokens: got 4, but alpha of sinh cancels"),
        ({"kind": "attention", "layer": 1, "head": 0}, r"problem\.head: got layer 1, head 0, expected one of 0/0"),
        ({"kind": "attention", "token": 276}, r"problem\.token: got 276, expected an integer in 0\.\.275"),
        ({"kind": "attention", "n": 270, "tokens": 7}, r"problem\.tokens: got 7 more than n = 270"),
        ({"move": "adam"}, r"problem\.move: .*expected gd, newton or data"),
        ({"smallest": 2.0}, r"problem\.smallest: got 2"),
    ],
)
def test_bad_input_is_refused_by_name(changes, message, tmp_path):
    problem = {"n": 8, **({} if changes.get("kind") == "attention" else {"d": 3}), **changes}
    precision = problem.pop("precision", "f64")
    with pytest.raises(InputError, match=message):
        expreg.run({**SMALL, "precision": precision, "problem": problem, "sweep": None}, out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("experiment", ["in_context", "regression"])
def test_a_head_in_a_file_is_the_head_itself(experiment, tmp_path):
    layers = [[data.attention(layer, head) for head in heads] for layer, heads in ((0, (2, 5)), (2, (8, 11)))]
    queries, keys = (np.array([[getattr(one, name) for one in row] for row in layers]) for name in ("queries", "keys"))
    data.save_heads(tmp_path / "heads.npz", queries, keys * 32**0.5)
    axes = {"n": [12]} if experiment == "in_context" else {}
    given = {"loss": "softmax", "token": 7}

    def cells(name, **problem):
        config = {"experiment": experiment, "name": name, "precision": "f64", "problem": {**given, **problem}}
        product = {**axes, "replicate": {"count": 2}}
        run = expreg.run({**config, "sweep": {"product": product}}, out=tmp_path / name, draw=False)
        rows = run.cells.sort_values("replicate", ignore_index=True)
        return rows.drop(columns=["cell", "seconds", "layer", "head", "problem", "data"], errors="ignore")

    bundled = cells("bundled", kind="attention", layer=2, head=8)
    own = cells("own", kind="heads", path=str(tmp_path / "heads.npz"), layer=1, head=0)
    pd.testing.assert_frame_equal(bundled, own, rtol=1e-9)
    other = cells("other", kind="heads", path=str(tmp_path / "heads.npz"), layer=1, head=1)
    assert not np.allclose(other.select_dtypes("float"), own.select_dtypes("float"), equal_nan=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": 3}, r"problem.head: got 3, expected 0 to 1: the file has 2"),
        ({"token": 9}, r"problem.token: got 9, expected 0 to 8: the file has 9"),
        ({"tokens": 8}, r"problem.tokens: got 8 more than n = 4, the file has 10 keys"),
        ({"path": "nothing.npz"}, r"nothing.npz' cannot be read"),
    ],
)
def test_what_a_file_of_heads_lacks_is_named(changes, message, tmp_path):
    rng = np.random.default_rng(0)
    data.save_heads(tmp_path / "heads.npz", rng.normal(size=(2, 9, 3)), rng.normal(size=(2, 10, 3)))
    problem = {"kind": "heads", "path": str(tmp_path / "heads.npz"), "loss": "softmax", **changes}
    with pytest.raises(InputError, match=message):
        expreg.run({"experiment": "in_context", "name": "own", "problem": problem, "sweep": {"product": {"n": [4]}}})


@pytest.mark.parametrize(
    ("queries", "keys", "message"),
    [
        (np.zeros((2, 9, 3)), np.zeros((9, 3)), r"got keys of shape \(9, 3\) and queries of \(2, 9, 3\)"),
        (np.zeros((9, 3)), np.zeros((9, 4)), r"got keys of shape \(9, 4\)"),
        (np.zeros((9, 3)), np.full((9, 3), np.nan), "nan or infinite entries in keys"),
    ],
)
def test_arrays_that_are_no_heads_are_refused(queries, keys, message, tmp_path):
    with pytest.raises(InputError, match=message):
        data.save_heads(tmp_path / "heads.npz", queries, keys)
    assert not (tmp_path / "heads.npz").exists()
