# make demo: install, run the quick preset, write runs/quick.   make test: install the test extra, check style and types, run the tests.
# make test-slow: the tests that take longer; those on real data where LEAKBOARD_DATA is set.
# make flower: the tests of Flower and its example, in an environment of their own beside .venv (Python 3.11 or newer).
# make examples: run the tutorial and the examples.   make dist: build a wheel and an sdist into dist/, check them, try the wheel.
# make gpu: what only a GPU can show, in less than 8 minutes, with torch alone (nothing is installed); make gpu DEVICE=cpu rehearses it.
# make docs: the documentation with the published board, as a site; its links are checked, those to other hosts by make links.
# make figures: the figures of its concept pages, from a run of the quick preset.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FLOWER := $(CURDIR)/.venv-flower
PROCESSES ?= 2
DEVICE ?= cuda
SKIP ?=
# Each with one thread, as more would fight with the other processes; the tests of a file in one of them, as they share what is costly.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-slow examples dist lint perf flower gpu docs links figures clean

demo: $(VENV)/installed
	$(BIN)/leakboard run --preset quick --out runs/quick
	@echo "the report is runs/quick/report/index.html"

test: $(VENV)/installed-test lint
	$(PYTEST)

test-slow: $(VENV)/installed-test
	$(PYTEST) -m slow --timeout 1800 --dist load --ignore tests/examples

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

flower: $(FLOWER)/installed
	OMP_NUM_THREADS=1 $(FLOWER)/bin/python -m pytest -m "slow or not slow" tests/benchmark/flower

gpu:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) tests/gpu/run.py --device $(DEVICE) --skip "$(SKIP)"

# Without a network; what is wrong in a page, a docstring or an entry ends it.
docs: $(VENV)/installed-docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html -d build/doctrees docs build/docs
	$(BIN)/python docs/check_site.py build/docs README.md CONTRIBUTING.md reports/published/README.md
	@echo "the site is build/docs/index.html"

links: $(VENV)/installed-docs
	$(BIN)/python -m sphinx -q -b linkcheck -d build/doctrees docs build/links

figures: demo
	$(BIN)/python docs/figures/make.py runs/quick

# The constraints name the versions that the published figures were made with.
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[test]"
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[docs]"
	touch $@

# Flower pins older versions of typer, rich, protobuf and ray than the constraints do, so it must not come into the same environment;
# what it does not pin is taken from there.
SITE_PACKAGES := -c "import sysconfig; print(sysconfig.get_path('purelib'))"
$(FLOWER)/installed: $(VENV)/installed-test
	test -x $(FLOWER)/bin/python || $(BIN)/python -m venv $(FLOWER)
	echo "import site; site.addsitedir('$$($(BIN)/python $(SITE_PACKAGES))')" > "$$($(FLOWER)/bin/python $(SITE_PACKAGES))/beside.pth"
	$(FLOWER)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[flower]"
	touch $@

clean:
	rm -rf $(VENV) $(FLOWER) build dist *.egg-info
