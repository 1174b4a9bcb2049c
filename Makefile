# Everything from a bare machine: Python 3.11 or newer with venv, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.leandet-installed
ENGINES := $(VENV)/.leandet-engines
# Bytecode is made of what is imported, when it is: of everything at once it would take a fifth of the set-up's time.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile

.PHONY: setup demo test test-all lint docs clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "leandet needs Python 3.11 or newer; name one with: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(INSTALL) --editable '.[train]' --group dev
	touch $@

# The main job on the embedded data: minutes, no download of data or weights. Run it again to go on where it was interrupted.
demo: setup
	$(BIN)/leandet build --demo --out demo $(if $(wildcard demo/build.json),--resume,)

# The other engines, whose tests are skipped without them; the demo does not wait for them.
$(ENGINES): $(STAMP)
	$(INSTALL) --group engines
	touch $@

# A worker that crashes is not replaced: its test fails and is named, where the run would otherwise wait for ever.
test: $(ENGINES)
	$(BIN)/python -m pytest -n 2 --dist loadscope --max-worker-restart 0

# Those that take a minute each, too.
test-all: $(ENGINES)
	$(BIN)/python -m pytest -n 2 --dist loadscope --max-worker-restart 0 -m ""

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Into site/; opens in a browser from the disk.
docs: setup
	$(INSTALL) --group docs
	$(BIN)/mkdocs build

clean:
	rm -rf demo site runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
