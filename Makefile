# One command per duty. PYTHON may name another Python 3.11 or newer; everything is installed into .venv.
PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed
LOCK := requirements-lock.txt

.PHONY: demo test test-fast browser coverage lint format install clean

demo: install  ## the whole job on a generated corpus, offline, into demo/
	$(BIN)/python run_pipeline.py demo

# COVERAGE=1, as in CI, counts the lines that ran, which takes longer, and fails below 90 %
COVERED := $(if $(COVERAGE),--cov --cov-report=term:skip-covered --cov-fail-under=90)

test: install  ## all tests that need no GPU and no download, in two processes
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not gpu and not weights" $(COVERED)

test-fast: install  ## without the slow ones
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not gpu and not weights and not slow"

# tests marked `browser` are part of `make test`; without a browser they are skipped, and say so
browser:  ## a browser for the tests marked `browser`, where there is none: Debian's Chromium, as root
	@if command -v chromium || command -v chromium-browser || command -v google-chrome; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		{ apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends chromium; } >/dev/null \
		|| echo "Chromium could not be installed; tests marked 'browser' are skipped"; \
	else echo "no browser, and no apt-get as root to install one; tests marked 'browser' are skipped"; fi

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
