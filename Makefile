# make demo: install, run the quick preset, write runs/quick.   make test: install the test extra, run the whole test suite.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint perf clean

demo: $(VENV)/installed
	$(BIN)/leakboard run --preset quick --out runs/quick
	@echo "the report is runs/quick/report/index.html"

test: $(VENV)/installed-test lint
	$(BIN)/python -m pytest

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

perf: $(VENV)/installed-test
	$(BIN)/python -m pytest tests/perf --benchmark-only

# The constraints name the versions that the published figures were made with.
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
