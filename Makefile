# Two commands are enough: `make run` shows a result on real data, `make test` checks the code.
# Both build the environment in .venv first, from hash-pinned requirements.

PYTHON ?= python3
# extras for accelerators and heavy optional parts: make setup EXTRAS=cuda12
EXTRAS ?=
BIN := .venv/bin
STAMP := .venv/.ready$(if $(EXTRAS),-$(EXTRAS))
UV := $(BIN)/uv pip

.PHONY: setup run test check golden figures soak bench docs clean requirements

setup: $(STAMP)

$(STAMP): requirements/dev.txt requirements/uv.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	$(UV) install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	$(UV) install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	$(if $(wildcard requirements/$(EXTRAS).txt),$(UV) install --quiet --python $(BIN)/python --require-hashes -r requirements/$(EXTRAS).txt)
	$(if $(EXTRAS),$(UV) install --quiet --python $(BIN)/python --editable ".[$(EXTRAS)]")
	touch $@

run: $(STAMP)
	$(BIN)/expreg run configs/quickstart.yaml

test: $(STAMP)
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file= --strict --follow-imports=silent tests/typing/user.py
	$(BIN)/basedpyright --level error tests/typing/user.py
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/proselint check --config docs/proselint.json README.md CHANGELOG.md docs/*.md

# only where a change of ids, rows or curves is intended
golden: $(STAMP)
	$(BIN)/python tests/golden/record.py

# runs the configs whose numbers README and docs quote, half an hour on 2 cores, and writes the numbers there
figures: $(STAMP)
	$(BIN)/python docs/figures.py

# the fault tests at length, under 25 minutes on 2 cores, and their figures in docs/reliability.md
soak: $(STAMP)
	EXPREG_SOAK=docs/results/reliability $(BIN)/python -m pytest -m soak
	$(BIN)/python docs/figures.py texts

# on an idle machine, without an accelerator: keeps what docs/performance.md and docs/regression.md show
bench: $(STAMP)
	$(BIN)/python docs/figures.py bench sweep regression scaling columns

docs: $(STAMP)
	$(UV) install --quiet --python $(BIN)/python --require-hashes -r requirements/docs.txt
	$(BIN)/sphinx-build -W -q docs docs/_build

# after a change of the dependencies in pyproject.toml; the output names no registry
requirements: $(STAMP)
	$(UV) compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --group dev pyproject.toml -o requirements/dev.txt
	$(UV) compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --extra docs --group dev pyproject.toml -o requirements/docs.txt
	$(UV) compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --extra cuda12 --constraint requirements/dev.txt pyproject.toml -o requirements/cuda12.txt

clean:
	rm -rf .venv docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
