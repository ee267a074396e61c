"""Container, development container and workflow, as far as a machine without Docker and GitHub can check them."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from expreg import api, cli

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOW = ROOT / "docs/examples/github-actions.yml"
DEVELOPMENT = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
HERE = {"--quiet", "--system", "--no-cache", "--no-cache-dir"}
"""Options of an installation that depend on where it takes place."""


def dockerfile(kind):
    """Return the arguments of all instructions of a kind."""
    text = re.sub(r"\\\n", " ", (ROOT / "docker/Dockerfile").read_text())
    return re.findall(rf"^{kind} (.*)$", text, re.MULTILINE)


def installation(command):
    """Return what an installation installs and how, without what depends on the place."""
    words = shlex.split(command)
    return [word for word in words[words.index("install") :] if word not in HERE]


def pins(name):
    """Return the pinned packages of a file of requirements, each with the number of its hashes."""
    text = (ROOT / f"requirements/{name}.txt").read_text()
    found = re.findall(r"^(\S+==.*?) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.MULTILINE)
    assert sum(hashes.count("\n") + 1 for _, hashes in found) == text.count("\n")  # there is nothing else in it
    return {pin: hashes.count("\n") for pin, hashes in found}


def steps():
    return yaml.safe_load(WORKFLOW.read_text())["jobs"]["sweep"]["steps"]


# --- the container --------------------------------------------------------------------------------


def test_cuda_has_the_versions_that_are_tested():
    tested, cuda = pins("dev"), pins("cuda12")
    assert min(cuda.values()) >= 1
    more = {re.split("==", pin)[0] for pin in set(cuda) - set(tested)}
    assert more == {name for name in more if name.startswith(("jax-cuda12-", "nvidia-"))}
    assert {"jax-cuda12-plugin", "jax-cuda12-pjrt", "nvidia-cudnn-cu12"} <= more


def test_the_container_copies_what_exists_and_all_that_the_wheel_needs():
    copied = {source for line in dockerfile("COPY") for source in line.split()[:-1]}
    ignored, *kept = (ROOT / "docker/Dockerfile.dockerignore").read_text().split()
    assert ignored == "*"
    for source in copied:
        assert (ROOT / source).exists()
        assert f"!{source.partition('/')[0]}" in kept
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    project = PROJECT["project"]
    assert {project["readme"], *project["license-files"], *wheel["packages"], *wheel["force-include"]} < copied


def test_the_container_installs_as_make_does():
    dry = ["make", "--dry-run", "--always-make", "setup", "EXTRAS=cuda12"]
    recipe = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    python = r" --python \S+"
    made = [installation(re.sub(python, "", line)) for line in recipe.splitlines() if " install " in line]
    *pinned, package = [installation(line) for line in dockerfile("RUN") if "pip install" in line]
    assert pinned
    for one in pinned:
        assert one in made
        assert "--require-hashes" in one
    assert package == ["install", "--no-deps", "--build-constraints", "requirements/dev.txt", "."]
    for name in PROJECT["build-system"]["requires"]:
        assert any(pin.startswith(f"{re.split('[><=]', name)[0]}==") for pin in pins("dev"))


def test_the_container_does_not_run_as_root_and_its_cache_is_a_volume():
    text = (ROOT / "docker/Dockerfile").read_text()
    [user], [entry], [first], [volume] = map(dockerfile, ("USER", "ENTRYPOINT", "CMD", "VOLUME"))
    assert user != "root"
    assert text.index("\nUSER ") < text.index("\nENTRYPOINT ")
    assert set(json.loads(entry)) == set(PROJECT["project"]["scripts"])
    commands = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    assert set(json.loads(first)) <= commands
    assert f"EXPREG_CACHE={volume}" in dockerfile("ENV")
    assert f"expreg-cache:{volume}" in text


def test_one_version_of_python_everywhere():
    [container] = dockerfile("FROM")
    version = re.fullmatch(r"python:(\S+)-slim", container)[1]
    assert DEVELOPMENT["image"].endswith(f"/python:{version}")
    assert [step["with"]["python-version"] for step in steps() if "python" in step.get("uses", "")] == [version]
    assert f"--python-version {version} " in (ROOT / "Makefile").read_text()
    assert PROJECT["project"]["requires-python"] == f">={version}"


@pytest.mark.parametrize(("present", "extras"), [([], ""), (["nvidia-smi"], "cuda12")])
def test_the_development_container_is_that_of_make(tmp_path, present, extras):
    for program, text in {"make": 'echo "$@"', **dict.fromkeys(present, "")}.items():
        (tmp_path / program).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / program).chmod(0o755)
    command = ["/bin/sh", "-c", DEVELOPMENT["postCreateCommand"]]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=True)
    assert done.stdout == f"setup EXTRAS={extras}\n"
    assert not extras or extras in PROJECT["project"]["optional-dependencies"]


# --- the workflow ---------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", ["vendor.github-workflows", "custom.github-workflows-require-timeout"])
def test_the_workflow_satisfies_the_schema(schema):
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(WORKFLOW)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_workflow_runs_a_config_of_ours_and_caches_where_it_writes():
    document = yaml.safe_load(WORKFLOW.read_text())
    config = api.load_config(ROOT / document["env"]["CONFIG"])
    assert document["env"]["RUN"] == f"runs/{config.name}"
    restored, saved = (step["with"] for step in steps() if "actions/cache" in step.get("uses", ""))
    assert restored["path"] == saved["path"]
    assert saved["key"].startswith(restored["restore-keys"])
    kept = restored["path"].split()
    assert document["env"]["RUN"].partition("/")[0] in kept
    assert document["env"]["EXPREG_CACHE"].rpartition("/")[2] in kept


def sweep(folder, limit="45m", **environment):
    """Run the step of the workflow that sweeps; return its exit code and what it leaves for the next steps."""
    [step] = [step for step in steps() if step.get("id") == "run"]
    assert " 45m " in step["run"]
    output = folder / "output"
    output.write_text("")
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"GITHUB_OUTPUT": str(output), "RUN": "runs/small", "PATH": path} | environment
    script = step["run"].replace(" 45m ", f" {limit} ")
    done = subprocess.run(["bash", "-e", "-c", script], cwd=folder, env=environment, check=False)
    return done.returncode, output.read_text()


@pytest.mark.parametrize(("code", "failed"), [(0, 0), (2, 2), (3, 3), (4, 4), (75, 0)])
def test_a_job_fails_with_the_codes_that_mean_failure(tmp_path, code, failed):
    (tmp_path / "expreg").write_text(f"#!/bin/sh\nexit {code}\n")
    (tmp_path / "expreg").chmod(0o755)
    assert sweep(tmp_path, CONFIG="any.yaml") == (failed, f"code={code}\n")


def test_a_job_that_runs_out_of_time_is_continued_by_the_next(tmp_path):
    """The grid is far too large for the first job, and small for the second."""
    for replicates, limit, code in ((50_000, "8s", 75), (1, "45m", 0)):
        grid = {"n": [64], "m": [4096], "replicate": {"count": replicates}}
        config = {"experiment": "concentration", "name": "small", "sweep": {"product": grid}}
        (tmp_path / "small.yaml").write_text(yaml.safe_dump(config))
        assert sweep(tmp_path, limit, CONFIG="small.yaml") == (0, f"code={code}\n")
    assert json.loads((tmp_path / "summary.json").read_text())["name"] == "small"
    reports = [step["with"]["path"] for step in steps() if "upload-artifact" in step.get("uses", "")]
    assert reports == ["${{ env.RUN }}/report.html\nsummary.json\n"]
    assert (tmp_path / "runs/small/report.html").exists()
