"""The compile cache: where it lies, that damage heals, and that one which cannot be used costs a line at most."""

import os
import pwd
import subprocess
import sys

import pytest

from expreg.core.engine import devices
from expreg.core.engine.devices import Cache, cache_directory
from expreg.kinds.network import native


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"HOME": "/home/x"}, "/home/x/.cache/expreg"),
        ({"HOME": "/home/x", "XDG_CACHE_HOME": ""}, "/home/x/.cache/expreg"),
        ({"HOME": "/home/x", "XDG_CACHE_HOME": "here"}, "/home/x/.cache/expreg"),
        ({"HOME": "/home/x", "XDG_CACHE_HOME": "/c"}, "/c/expreg"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/expreg"),
        ({"EXPREG_CACHE": "/mine"}, "/mine"),
        ({"EXPREG_CACHE": "mine"}, "mine"),
        ({"HOME": "/home/x", "EXPREG_CACHE": "~/mine"}, "/home/x/mine"),
        ({"HOME": "/home/x", "EXPREG_CACHE": ""}, "/home/x/.cache/expreg"),
        ({"HOME": "/home/x", "EXPREG_CACHE": "off"}, None),
        ({}, None),
        ({"HOME": ""}, None),
        ({"HOME": "/"}, None),
        ({"HOME": "~"}, None),
        ({"EXPREG_CACHE": "~/mine"}, None),
    ],
)
def test_the_cache_lies_where_the_environment_says(monkeypatch, environment, place):
    def nobody(_):
        raise KeyError("no such user")  # as with docker --user

    for name in ("HOME", "XDG_CACHE_HOME", "EXPREG_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    found = cache_directory()
    assert (found and str(found.parent)) == place


def test_a_damaged_entry_is_missing_until_it_is_written_again(tmp_path):
    cache = Cache(tmp_path / "new")
    content = os.urandom(300)
    assert cache.get("key") is None
    cache.put("key", content)
    path = cache.place("key")
    whole = path.read_bytes()
    assert Cache(tmp_path / "new").get("key") == content
    for damaged in [whole[:k] for k in range(len(whole))] + [whole[:k] + b"\0" + whole[k:] for k in range(0, 330, 7)]:
        path.write_bytes(damaged)
        assert cache.get("key") is None
    cache.put("key", content)
    assert cache.get("key") == content
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_cache_that_cannot_be_written_says_so_once(tmp_path, monkeypatch, recwarn):
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "cache")
    full = Cache(tmp_path)
    monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    for broken, reason in ((cache, "Not a directory"), (full, "No space left on device")):
        recwarn.clear()
        for key in "abc":
            broken.put(key, b"x")
            assert broken.get(key) is None
        [warning] = recwarn
        assert str(warning.message).startswith("programs are not kept in ")
        assert f": {reason}; EXPREG_CACHE moves it" in str(warning.message)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


TWICE = """
from expreg.core.engine import devices
devices.configure()
import jax
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
print(jax.jit(lambda x: x * 3 + 1)(2.0))
"""


def test_jax_replaces_a_damaged_entry_without_a_word(tmp_path):
    def compute():
        environment = os.environ | {"EXPREG_CACHE": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", TWICE], env=environment, capture_output=True, text=True, check=True
        )
        assert (done.stdout, done.stderr) == ("7.0\n", "")
        return {path: path.read_bytes() for path in tmp_path.rglob("*-cache")}

    entries = compute()
    assert entries
    for path, content in entries.items():
        path.write_bytes(content[:100])
    assert compute().keys() == entries.keys()
    cache = {path: Cache(path.parent).get(path.name.removesuffix("-cache")) for path in entries}
    assert all(cache.values())


@pytest.mark.skipif(bool(native.missing()), reason="no compiler here")
def test_a_truncated_library_is_built_again(tmp_path, monkeypatch):
    monkeypatch.setenv("EXPREG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS[:1], "-O0", *native.FLAGS[2:]))
    for _ in range(2):
        scratch = tmp_path / os.urandom(4).hex()
        scratch.mkdir()
        library = native._built("g++", scratch)
        assert library.is_relative_to(devices.cache_directory())
        whole = library.read_bytes()
        library.write_bytes(whole[:4096])
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EXPREG_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="programs are not kept"):
        assert native._built("g++", scratch).parent == scratch
