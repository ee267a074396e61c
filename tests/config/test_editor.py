"""What an editor says of a config: the shipped ones are right, and a typo is underlined, in yaml-language-server."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from expreg.api import json_schema

ROOT = Path(__file__).parents[2]
CLIENT = Path(__file__).parent / "lsp.js"
VERSION = "1.19.2"
CACHE = Path(os.environ.get("EXPREG_TEST_CACHE", Path(tempfile.gettempdir()) / f"expreg-editor-{os.getuid()}"))
MODELINE = "# yaml-language-server: $schema="


@pytest.fixture(scope="module")
def server():
    """Return the installed language server; npm fetches it once."""
    if not (shutil.which("npm") and shutil.which("node")):
        pytest.skip("npm or node is absent")
    found = CACHE / VERSION / "node_modules/yaml-language-server/bin/yaml-language-server"
    if not found.exists():
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", found.parents[3]]
        done = subprocess.run([*command, f"yaml-language-server@{VERSION}"], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"npm cannot install the server: {done.stderr.strip()[-200:]}")
    return found


@pytest.fixture
def complaints(server, tmp_path):
    """Return what the server says of the given texts of configs, by name."""

    def ask(texts):
        (tmp_path / "schema.json").write_text(json.dumps(json_schema()))
        for name, text in texts.items():
            (tmp_path / name).write_text(f"{MODELINE}schema.json\n{text}")
        command = ["node", CLIENT, server, *(tmp_path / name for name in texts)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        return {Path(file).name: found for file, found in json.loads(done.stdout).items()}

    return ask


def test_every_shipped_config_names_its_schema():
    for path in (ROOT / "configs").glob("*.yaml"):
        assert path.read_text().startswith(f"{MODELINE}../.expreg-schema.json\n"), path.name


def test_shipped_configs_are_right_and_typos_are_underlined(complaints):
    shipped = {path.name: path.read_text().partition("\n")[2] for path in sorted((ROOT / "configs").glob("*.yaml"))}
    start = "experiment: threshold\nname: x\n"
    wrong = {
        "key.yaml": f"{start}training: {{tolerence: 0.1}}\n",
        "value.yaml": f"{start}network: {{activation: tanh}}\n",
        "kind.yaml": f"{start}data: {{kind: sphre}}\n",
        "block.yaml": f"{start}solver: {{name: newton}}\n",
        "grid.yaml": f"{start}sweep: {{product: {{m: {{geometrc: [1, 2, 3]}}}}}}\n",
        "number.yaml": f"{start}training: {{tolerance: -1}}\n",
    }
    found = complaints({**shipped, **wrong})
    assert {name: found[name] for name in shipped} == {name: [] for name in shipped}
    assert [name for name in wrong if not found[name]] == []
