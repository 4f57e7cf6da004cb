# Everything runs in .venv; the first target that needs it makes it.
FOUND = $(foreach name,python3.11 python3.12 python3.13,$(shell $(name) -c 'print("$(name)")' 2>/dev/null))
PYTHON ?= $(firstword $(FOUND))
NO_PYTHON := expected Python 3.11, 3.12 or 3.13, got none: install one, or name it with PYTHON=PATH
VENV := .venv
SPIRE := $(VENV)/bin/spire
STAMP := $(VENV)/.installed
# Three fill two cores: many tests wait for servers, time limits and processes that start.
TESTS_AT_ONCE ?= 3
PYTEST := $(VENV)/bin/python -m pytest -q -n $(TESTS_AT_ONCE) --dist loadfile --no-loadscope-reorder --max-worker-restart=0

# A second version of Python: settings, the command line, plans of sweeps and pages show most of what
# differs between versions, without an installation of torch. `make test PYTHON=...` runs everything.
OTHER_PYTHON ?= python3.13
OTHER := build/$(notdir $(OTHER_PYTHON))
LIGHT := $(addprefix tests/unit/,test_layering.py core/test_plugins.py core/federated/test_exact_sum.py \
	$(addprefix run/, \
	config/test_meaning.py config/test_load.py config/test_plugins.py config/test_rules.py \
	cli/test_completion.py cli/test_settings_page.py results/test_params.py))
LIGHT_NEEDS := click filelock hypothesis numpy omegaconf pillow pytest pytest-timeout pyyaml safetensors scipy

PEERS := build/peers
# Two thirds of an installation is compiling modules that nothing here imports: Python compiles the
# others as it first imports them, and has to keep what it compiled, whatever the environment says.
PIP_INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help run lint check test test-all test-other bench bench-peers chaos docs ui clean

help:  ## say what each target does
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo '$(NO_PYTHON)' >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) -e '.[test]'
	touch $(STAMP)

run: $(STAMP)  ## set everything up and run the main job: the methods compared on real MNIST
	$(SPIRE) sweep compare

test: $(STAMP)  ## set everything up and run the tests that each commit has to pass
	$(PYTEST) -m 'not slow'

test-all: $(STAMP)  ## set everything up and run all tests, also those that take minutes
	$(PYTEST)

test-other: $(OTHER)/.installed  ## with another Python ($(OTHER_PYTHON)), the tests that need neither torch nor Ray
	$(OTHER)/bin/python -m pytest -q --noconftest $(LIGHT)

$(OTHER)/.installed: pyproject.toml
	$(OTHER_PYTHON) -m venv $(OTHER)
	$(OTHER)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile $(LIGHT_NEEDS)
	touch $@

$(VENV)/.dev $(VENV)/.docs: $(VENV)/.%: $(STAMP)
	$(PIP_INSTALL) -e '.[test,$*]'
	touch $@

lint: $(VENV)/.dev  ## linter, formatting and types
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

LONG := core/mixture run/audit run/evaluation run/experiment run/tracking sweep
check: $(VENV)/.dev  ## the linters, and beside them most unit tests
	$(MAKE) --no-print-directory lint & linters=$$!; \
	$(PYTEST) -m 'not slow' tests/unit $(LONG:%=--ignore=tests/unit/%); \
	tests=$$?; wait $$linters && exit $$tests

bench: $(STAMP)  ## speed of training and fitting beside plain PyTorch, as in docs/performance.md
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(VENV)/bin/python -m benchmarks.engine

$(PEERS)/%/.installed: benchmarks/peers/%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

bench-peers: $(STAMP) $(PEERS)/flower/.installed $(PEERS)/pfl/.installed  ## seconds per round beside plain PyTorch, Flower and pfl
	$(VENV)/bin/python -m benchmarks.peers.run

chaos: $(STAMP)  ## disturb 20 small runs, each in another way, as in docs/failures.md
	$(VENV)/bin/python -m benchmarks.chaos --runs 20 --seed 0

docs: $(VENV)/.docs  ## the pages as a site, in build/site, with all options and functions
	{ echo '# The command'; for verb in try run resume adapt sample export audit 'data fetch' 'data show' \
		sweep plan report open sync theory doctor; do printf '\n## spire %s\n\n```\n' "$$verb"; \
		COLUMNS=100 $(SPIRE) $$verb --help || exit; echo '```'; done; } > docs/cli.md
	{ printf '# The module spire\n\n```\n'; $(VENV)/bin/python -m pydoc spire | sed '/^FILE/,$$d' || exit; echo '```'; } > docs/api.md
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

ui: $(STAMP)  ## look at the runs in mlflow.db, here, in the browser
	@echo 'open http://127.0.0.1:5000/#/experiments?workflowType=machine_learning'
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(VENV)/bin/mlflow ui --backend-store-uri sqlite:///$(CURDIR)/mlflow.db --host 127.0.0.1 --port 5000

clean:  ## remove the virtual environment and caches; runs and data stay
	rm -rf $(VENV) .pytest_cache .ruff_cache build *.egg-info
