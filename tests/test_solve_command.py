"""`expreg solve` on files: what it prints is what `expreg.solve` found; bad input is one line each and exit code 2."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy import io, sparse

import expreg

RNG = np.random.default_rng(0)
A = RNG.normal(size=(60, 3)) * (RNG.random((60, 3)) < 0.8)
X = np.array([0.5, -0.3, 0.2])
B = np.exp(A @ X) * np.exp(0.1 * RNG.normal(size=60))
B /= B.sum()


@pytest.fixture
def solve(tmp_path, monkeypatch, command):
    """Solve in a directory with the files of the problem; return exit code, output, errors."""
    np.save(tmp_path / "A.npy", A)
    np.save(tmp_path / "b.npy", B)
    io.mmwrite(tmp_path / "A.mtx", sparse.coo_array(A))
    monkeypatch.chdir(tmp_path)
    return partial(command, "solve")


@pytest.mark.parametrize("matrix", ["A.npy", "A.mtx"])
def test_the_document_is_the_solution(matrix, solve):
    code, out, _ = solve(matrix, "b.npy", "--loss", "softmax", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["status"] == "converged"
    expected = expreg.solve(A, B, loss="softmax")
    np.testing.assert_allclose(told["x"], expected.x, rtol=1e-7)
    f = np.exp(A @ told["x"]) / np.exp(A @ told["x"]).sum()
    assert told["softmax_residual"] == pytest.approx(np.linalg.norm(f - B), rel=1e-9)
    assert told["alpha"] == pytest.approx(np.exp(A @ told["x"]).sum(), rel=1e-9)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv"])
def test_x_is_written_and_can_be_a_start(suffix, solve):
    code, out, _ = solve("A.npy", "b.npy", "--out", f"x{suffix}", "--loss=softmax")
    assert code == 0
    for words in ("converged: ", "alpha ", "softmax residual ", "projective loss ", "max |z| ", "steps ", "x "):
        assert words in out
    np.testing.assert_array_equal(expreg.data.read_vector(f"x{suffix}"), expreg.solve(A, B, loss="softmax").x)
    _, again, _ = solve("A.npy", "b.npy", "--start", f"x{suffix}", "--loss=softmax", "--json")
    assert json.loads(again)["steps"] == 0


def test_weights_are_a_number_or_a_file(solve):
    np.save("w.npy", np.full(60, 0.01))
    told = [json.loads(solve("A.npy", "b.npy", "--weights", w, "--json")[1]) for w in ("0.01", "w.npy", "0")]
    np.testing.assert_allclose(told[0]["x"], told[1]["x"], rtol=1e-12)
    assert np.abs(np.array(told[0]["x"]) - told[2]["x"]).max() > 1e-8


def test_numbers_that_json_lacks_are_null(solve):
    np.save("b0.npy", np.exp(A @ X) / np.exp(A @ X).sum())  # an exact fit from the start: no step, no decrement
    _, out, _ = solve("A.npy", "b0.npy", "--json")
    assert json.loads(out, parse_constant=pytest.fail)["status"] == "converged"


def test_warnings_are_lines_and_not_an_end(solve):
    np.save("b2.npy", 2 * B)
    code, _, err = solve("A.npy", "b2.npy")
    assert code == 0
    assert err.startswith("warning: ")
    assert "E.17" in err


BAD = {
    "--loss=soft": "error[E-ENUM] loss: got 'soft'",
    "--tol=1e-30": "error[E-RANGE] tol: got 1e-30",
    "--weights=-1": "error[E-RANGE] --weights: got -1, expected a finite number >= 0",
    "--out=x.txt": "error[E-ENUM] x.txt: --out: got a .txt file, expected one of .npy .npz .csv",
    "--start=b.npy": "error[E-SHAPE]",
    "--weights=none.npy": "cannot be opened",
}


@pytest.mark.parametrize("option", BAD)
def test_bad_options_are_named(option, solve):
    code, out, err = solve("A.npy", "b.npy", option)
    assert (code, out) == (2, "")
    assert BAD[option] in err
    assert err.count("\n") == 1


def test_bad_entries_are_named(solve):
    broken = A.copy()
    broken[4, 1] = np.nan
    np.save("A.npy", broken)
    code, _, err = solve("A.npy", "b.npy")
    assert code == 2
    assert "A[4,1]: got nan, expected finite" in err


def test_the_place_of_x_is_looked_at_before_the_work_and_is_no_input(solve, monkeypatch):
    monkeypatch.setattr("expreg.solver.solve", lambda *_, **__: pytest.fail("the work was begun"))
    Path("x.npy").symlink_to("A.npy")
    Path("folder.npy").mkdir()
    shutil.copy("A.npy", "w.npy")
    before = {path: path.read_bytes() for path in map(Path, ("A.npy", "b.npy", "w.npy"))}
    for out, said in {
        "nowhere/x.npy": "there is no directory nowhere",
        "A.npy": "is an input of this command; give another file",
        "./b.npy": "is an input of this command; give another file",
        "x.npy": "is an input of this command; give another file",
        "w.npy": "is an input of this command; give another file",
        "folder.npy": "is a directory or a device, expected a file",
        "a" * 300 + ".npy": "File name too long",
    }.items():
        code, printed, err = solve("A.npy", "b.npy", "--weights", "w.npy", "--out", out)
        assert (code, printed, err) == (2, "", f"error[E-PATH] {Path(out)}: --out: {said}\n")
    assert {path: path.read_bytes() for path in before} == before


def test_names_as_long_as_a_file_system_takes_are_written(solve):
    for name in ("a" * 251, "é" * 125):
        assert solve("A.npy", "b.npy", "--loss", "softmax", "--out", f"{name}.npy")[0] == 0
        assert len(np.load(f"{name}.npy")) == 3
    assert not [*Path().glob(".*")]


@pytest.mark.parametrize(("words", "key"), [(["--weights"], "--weights: "), (["--start"], "--start: "), ([], "")])
def test_errors_name_the_option_that_was_given(solve, words, key):
    code, _, err = solve("A.npy", "b.npy", *words, "no.npy") if words else solve("A.npy", "no.npy")
    assert code == 2
    assert err == f"error[E-PATH] {key}'no.npy' cannot be opened: No such file or directory\n"


def test_an_entry_of_an_option_is_named_by_it(solve, command):
    np.save("w.npy", np.full(60, 2**64 - 1, np.uint64))
    for option in ("--weights", "--start"):
        code, _, err = solve("A.npy", "b.npy", option, "w.npy")
        assert code == 2
        assert err.startswith(f"error[E-DTYPE] w.npy: {option}[0]: got 18446744073709551615 of uint64, ")
    assert command("certify", "--arrays", "no.npz")[2].startswith("error[E-PATH] --arrays: 'no.npz' cannot be opened: ")


def test_empty_columns_of_a_sparse_file_stay_at_0(solve):
    wide = np.insert(A, [0, 2], 0, axis=1)
    io.mmwrite("wide.mtx", sparse.coo_array(wide))
    np.save("x0.npy", np.ones(5))
    for more in ([], ["--start", "x0.npy"]):
        code, out, err = solve("wide.mtx", "b.npy", "--loss=softmax", "--json", "--out=x.npy", *more)
        assert code == 0
        assert err == "warning: A: 2 of 5 columns are empty and left out: x[0] is 0\n"
        x = np.array(json.loads(out)["x"])
        assert not x[[0, 3]].any()
        np.testing.assert_array_equal(np.load("x.npy"), x)
        np.testing.assert_allclose(x[[1, 2, 4]], expreg.solve(A, B, loss="softmax").x, rtol=1e-7)
    np.save("x0.npy", np.ones(3))
    code, _, err = solve("wide.mtx", "b.npy", "--start=x0.npy")
    assert code == 2
    assert "x0.npy: --start: got 3 values for an A of 5 columns, expected 5" in err


def test_a_file_that_would_be_misread_is_refused_and_another_says_how_it_was_read(solve):
    with open("index.csv", "w") as file:
        file.write(",a,c,y\n2,3.0,0.7,3.0\n1,2.0,0.1,2.0\n4,5.0,0.2,4.0\n")
    with open("one.svm", "w") as file:
        file.write("1 1:0.5 2:1\n2 2:2\n3 1:1 2:1\n")
    code, out, err = solve("index.csv", "--loss=exponential")
    assert (code, out) == (2, "")
    assert err.startswith("error[E-DATA] index.csv: column 1 has no name, as numbers of rows have none; leave it out")
    code, _, err = solve("one.svm", "--loss=exponential")
    assert code == 0
    assert err == "warning: svmlight: none of the indices is 0, so they count from 1: x[0] is feature 1\n"


def test_files_without_names_and_options_of_the_solver(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    A = rng.normal(size=(40, 3))
    b = rng.dirichlet(np.ones(40))
    np.savetxt("A.csv", A, delimiter=",")
    np.savetxt("b.csv", b)
    code, _, err = command("solve", "A.csv", "b.csv")
    assert (code, "--no-header for solve" in err) == (2, True)
    words = ["solve", "A.csv", "b.csv", "--no-header", "--loss", "softmax", "--json"]
    found = json.loads(command(*words, "--starts", "3", "--max-steps", "50")[1])
    expected = expreg.solve(A, b, loss="softmax", starts=3, max_steps=50)
    assert found["x"] == pytest.approx(expected.x, rel=1e-12)
    assert json.loads(command(*words, "--max-steps", "1")[1])["steps"] == 1
    assert "problem           softmax, exp\n" in command(*words[:-1])[1]
