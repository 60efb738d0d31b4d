# One command per duty. PYTHON may name another Python 3.11 or newer; everything is installed into .venv.
PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed
LOCK := requirements-lock.txt

.PHONY: demo test test-fast coverage lint format install clean

demo: install  ## the whole job on a generated corpus, offline, into demo/
	$(BIN)/python run_pipeline.py demo

# COVERAGE=1, as in CI, counts the lines that ran, which takes longer, and fails below 90 %
COVERED := $(if $(COVERAGE),--cov --cov-report=term:skip-covered --cov-fail-under=90)

test: install  ## all tests that need no GPU and no download, in two processes
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not gpu and not weights" $(COVERED)

test-fast: install  ## without the slow ones
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not gpu and not weights and not slow"

coverage:  ## the lines that the last `make test COVERAGE=1` did not run
	$(BIN)/coverage report --show-missing --skip-covered

lint: install  ## ruff, mypy strict, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(STAMP)$(if $(LOCKED),-locked)  ## LOCKED=1 takes the known-good versions of requirements-lock.txt

# an existing .venv is reused; pip runs again only when pyproject.toml changed
$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(STAMP)

# the other stamp is touched, too: what needs an installation takes this one
$(STAMP)-locked: pyproject.toml $(LOCK)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint $(LOCK) --editable '.[dev]'
	touch $(STAMP) $(STAMP)-locked

clean:
	rm -rf demo runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
