# make demo   sets everything up in .venv, builds the quickstart corpus, trains on it, writes the report
# make test   the tests; make nightly goes on killing processes and the S3 server for longer
# make test-browser   the tests of the report's pages, in Chromium
PYTHON ?= python3
BIN := .venv/bin
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: setup img2dataset demo demo-small corpus-openclipart test test-browser nightly lint bench clean

INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

setup: .venv/.dev

# What the demo needs; the tests need more.
.venv/.demo: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Rasterloom needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	test -d .venv || $(PYTHON) -m venv .venv
	@echo "Installing into .venv (a few minutes the first time) ..."
	$(INSTALL) -e '.[demo]'
	touch $@

.venv/.dev: .venv/.demo
	$(INSTALL) -e '.[dev,demo]'
	touch $@

# The other fetch engine, whose pins on pandas and OpenCV are older than ours, in an environment of its own.
img2dataset: .venv-img2dataset/.done

.venv-img2dataset/.done:
	$(PYTHON) -m venv .venv-img2dataset
	.venv-img2dataset/bin/python -m pip install --quiet --disable-pip-version-check img2dataset==1.47.0
	touch $@

demo: .venv/.demo
	$(BIN)/python examples/quickstart/demo.py

demo-small: .venv/.demo
	$(BIN)/python examples/quickstart/demo.py --recipe examples/quickstart-small.yaml --scenes 150

corpus-openclipart: .venv/.demo
	$(BIN)/python examples/openclipart/corpus.py

test: setup
	$(BIN)/python -m pytest

# The pages in a real browser: one that RASTERLOOM_CHROMIUM names, or that is found by its usual names.
CHROMIUM = $(or $(RASTERLOOM_CHROMIUM),$(shell command -v chromium || command -v chromium-browser || command -v google-chrome))

test-browser: .venv/.browser
	@test -n "$(CHROMIUM)" || { echo "No Chromium: install one (Debian: apt-get install chromium) or set RASTERLOOM_CHROMIUM to its path"; exit 1; }
	RASTERLOOM_CHROMIUM="$(CHROMIUM)" $(BIN)/python -m pytest -m browser tests/report

.venv/.browser: .venv/.dev
	$(INSTALL) -e '.[dev,demo,browser]'
	touch $@

# The tests that take chances, taken often, and a walk through docs/cluster-quickstart.md; RASTERLOOM_KILL_SEED=N repeats a night's.
# So does RASTERLOOM_ORACLE_SEED=N of the drawn training recipes, each of which is printed with its number.
nightly: export RASTERLOOM_KILL_ROUNDS ?= 50
nightly: export RASTERLOOM_KILL_SEED ?= $(shell date +%s)
nightly: export RASTERLOOM_ORACLE_RECIPES ?= 300
nightly: export RASTERLOOM_ORACLE_SEED ?= $(shell date +%s)
nightly: setup
	$(BIN)/python -m pytest -m "not browser" -s tests/pipelines/test_survival.py tests/pipelines/test_cluster_quickstart.py \
		tests/train/test_oracle.py tests/train/test_known_faults.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf work
