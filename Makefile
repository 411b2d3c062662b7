# make demo: install, run the quick preset, write runs/quick.   make test: install the test extra, check style and types, run the tests.
# make test-slow: the tests that take longer; those on real data where LEAKBOARD_DATA is set.
# make examples: run the tutorial and the examples.   make dist: build a wheel and an sdist into dist/, check them, try the wheel.
# make gpu: what only a GPU can show, in less than 8 minutes, with torch alone (nothing is installed); make gpu DEVICE=cpu rehearses it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROCESSES ?= 2
DEVICE ?= cuda
SKIP ?=
# Each with one thread, as more would fight with the other processes; the tests of a file in one of them, as they share what is costly.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-slow examples dist lint perf gpu clean

demo: $(VENV)/installed
	$(BIN)/leakboard run --preset quick --out runs/quick
	@echo "the report is runs/quick/report/index.html"

test: $(VENV)/installed-test lint
	$(PYTEST)

test-slow: $(VENV)/installed-test
	$(PYTEST) -m slow --dist load --ignore tests/examples

examples: $(VENV)/installed-test
	$(PYTEST) -m "slow or not slow" tests/examples

dist: $(VENV)/installed-test
	rm -rf dist
	$(BIN)/python -m build --outdir dist . > /dev/null
	$(BIN)/python -m twine check --strict dist/*
	LEAKBOARD_DIST=dist $(PYTEST) tests/release

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

perf: $(VENV)/installed-test
	$(BIN)/python -m pytest tests/perf --benchmark-only

gpu:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) tests/gpu/run.py --device $(DEVICE) --skip "$(SKIP)"

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
