# make demo      sets everything up in .venv, builds the quickstart corpus, trains on it, writes the report
# make test      the tests of every room, in minutes; make test-all has the slow ones too
# make test-one ROOM=sources   all tests of one room, or of a file: ROOM=sources/test_tar.py
# make nightly   draws new examples, and goes on killing processes and the S3 server for longer
# make setup TORCH=cpu   without the gigabytes of CUDA; make demo and the tests take it too
# make lint      what a change must pass first; make hooks has git do it at each commit
# make lock      renews requirements.lock from pyproject.toml and constraints.txt
# make wheel     builds the wheel, installs it without what only tests need, and uses it
# make api       a page for each public module, from the docstrings, in work/api
# make site      the docs as a site with search, and those pages, in work/docs
# make test-browser   the tests of the report's pages, and of images as a browser shows them, in Chromium
PYTHON ?= python3
BIN := .venv/bin
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: setup img2dataset demo demo-small corpus-openclipart test test-slow test-all test-one test-browser \
	nightly lint hooks lock resolve wheel api site bench clean

INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# TORCH=cpu takes PyTorch without CUDA, TORCH=cu126 and so on one for another CUDA; empty: what PyPI has.
TORCH ?=
TORCH_INSTALL := $(INSTALL) -c constraints.txt torch $(if $(TORCH),--index-url https://download.pytorch.org/whl/$(TORCH))
# On two cores: tests wait for servers and processes a third of their time.
TESTS_AT_ONCE ?= 3
# In the order of tests/conftest.py, which begins with the files that take longest.
PYTEST := $(BIN)/python -m pytest -n $(TESTS_AT_ONCE) --dist loadfile --no-loadscope-reorder --durations 10
NOT_HERE := not browser and not nightly

setup: .venv/.dev

# What the demo needs; the tests need more.
.venv/.demo: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Rasterloom needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	test -d .venv || $(PYTHON) -m venv .venv
	@echo "Installing into .venv (a few minutes the first time) ..."
	$(if $(TORCH),$(TORCH_INSTALL))
	$(INSTALL) -c constraints.txt -e '.[demo]'
	touch $@

# Everything by its hash, but torch and what torch brings: its wheels differ by CPU, CUDA and ROCm, and each is
# in an index of its own, so no one hash holds for them. constraints.txt pins their versions.
.venv/.dev: pyproject.toml constraints.txt requirements.lock
	$(PYTHON) -c 'import sys; sys.exit("Rasterloom needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	test -d .venv || $(PYTHON) -m venv .venv
	@echo "Installing into .venv (a few minutes the first time) ..."
	$(INSTALL) --no-deps --require-hashes -r requirements.lock
	$(TORCH_INSTALL)
	$(INSTALL) --no-deps -e .
	$(BIN)/python -m pip check
	touch .venv/.demo $@

# The other fetch engine, whose pins on pandas and OpenCV are older than ours, in an environment of its own.
img2dataset: .venv-img2dataset/.done

.venv-img2dataset/.done:
	$(PYTHON) -m venv .venv-img2dataset
	.venv-img2dataset/bin/python -m pip install --quiet --disable-pip-version-check img2dataset==1.47.0
	touch $@

demo: .venv/.demo
	$(BIN)/python examples/quickstart/demo.py

demo-small: .venv/.demo
	$(BIN)/python examples/quickstart/demo.py --recipe examples/quickstart-small.yaml --scenes 150 --varied

corpus-openclipart: .venv/.demo
	$(BIN)/python examples/openclipart/corpus.py

test: setup
	$(PYTEST) -m "$(NOT_HERE) and not slow"

test-slow: setup
	$(PYTEST) -m "$(NOT_HERE) and slow"

test-all: setup
	$(PYTEST) -m "$(NOT_HERE)"

test-one: setup
	@test -n "$(ROOM)" || { echo "Which room? make test-one ROOM=sources"; exit 1; }
	$(BIN)/python -m pytest -m "$(NOT_HERE)" --durations 10 tests/$(ROOM)

# In a real browser: one that RASTERLOOM_CHROMIUM names, or that is found by its usual names.
CHROMIUM = $(or $(RASTERLOOM_CHROMIUM),$(shell command -v chromium || command -v chromium-browser || command -v google-chrome))

test-browser: .venv/.dev
	@test -n "$(CHROMIUM)" || { echo "No Chromium: install one (Debian: apt-get install chromium) or set RASTERLOOM_CHROMIUM to its path"; exit 1; }
	RASTERLOOM_CHROMIUM="$(CHROMIUM)" $(BIN)/python -m pytest -m browser tests/report tests/serve tests/differential

# The tests that take chances, taken often and with new seeds, and a walk through docs/cluster-quickstart.md.
# The seeds are printed; RASTERLOOM_KILL_SEED=N, RASTERLOOM_ORACLE_SEED=N and DRAW_SEED=N repeat a night's.
WALKS := tests/pipelines/test_survival.py tests/pipelines/test_cluster_quickstart.py \
	tests/pipelines/execution/test_halving.py tests/train/test_oracle.py tests/train/test_known_faults.py
nightly: export RASTERLOOM_KILL_ROUNDS ?= 50
nightly: export RASTERLOOM_KILL_SEED ?= $(shell date +%s)
nightly: export RASTERLOOM_ORACLE_RECIPES ?= 300
nightly: export RASTERLOOM_ORACLE_SEED ?= $(shell date +%s)
nightly: DRAW_SEED ?= $(shell date +%s)
nightly: setup
	@echo "hypothesis draws by DRAW_SEED=$(DRAW_SEED)"
	$(BIN)/python -m pytest -m "hypothesis and not browser" --hypothesis-profile night --hypothesis-seed $(DRAW_SEED)
	$(BIN)/python -m pytest -m "not browser" -s $(WALKS)
	$(INSTALL) -c constraints.txt triton
	$(PYTEST) -m "nightly and not browser" $(WALKS:%=--ignore %)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files | xargs $(BIN)/codespell

hooks: setup
	$(BIN)/pre-commit install

# One lock for the Pythons that `requires-python` allows and for all machines.
TORCHS := torch triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti \
	nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand \
	nvidia-cusolver nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink \
	nvidia-nvshmem-cu13 nvidia-nvtx
COMPILE := $(BIN)/uv pip compile --quiet --no-header --no-annotate -c constraints.txt pyproject.toml \
	--extra dev --extra demo --extra browser

lock: setup
	$(COMPILE) --universal --python-version 3.11 --generate-hashes $(TORCHS:%=--no-emit-package %) \
	-o requirements.lock

# Whether there is a set of versions for each Python that we say we run on; the tests run on one.
resolve: setup
	for version in 3.11 3.12 3.13; do $(COMPILE) --python-version $$version > /dev/null || exit 1; done

wheel: setup
	$(BIN)/python scripts/check_wheel.py

api: setup
	$(BIN)/python scripts/api_pages.py work/api

# The docs as a site, with search, and the pages of the API below it.
site: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	$(BIN)/python scripts/api_pages.py work/docs/api

bench: setup
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf work
