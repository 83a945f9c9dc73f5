# Every developer command; `make help` lists them.
# An environment is a function of requirements.lock: it is made anew when the lock changes.

PYTHON ?= python3
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
ifndef STEPS_AT_ONCE
.NOTPARALLEL:
endif
export UV_PYTHON_DOWNLOADS := never
# A run and its tests start hundreds of processes, each of which would compile what it imports where
# the shell forbids Python to keep it.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help run install test test-microsam test-cellpose test-bioengine test-crate test-slurm test-faults soak upstream check fuzz audit bench bench-watershed bench-pipeline bench-engine bench-large bench-networks docs schemas lock upgrade clean

help: ## list these commands
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1|\2/p' $(MAKEFILE_LIST) | \
	  while IFS='|' read -r name text; do printf '  make %-15s %s\n' "$$name" "$$text"; done

run: .venv/installed-local ## segment the images of config/ over a local service, print where the masks are
	@status=0; .venv/bin/snakemake --cores 8 || status=$$?; \
	results="results/$$(sed -n 's/^dataset: *//p' config/config.yaml)"; \
	for made in report.html masks; do \
	  if [ -e "$$results/$$made" ]; then echo "$$results/$$made"; fi; \
	done; exit $$status

install: .venv/bin/uv ## the client with other extras, in the lock's versions: EXTRAS=local,outputs,slurm
	$(call install_into,.venv)

# Files of tests side by side, two more than there are cores: a test with servers mostly waits. Those
# that take longest come first, so that nobody waits for one of them alone at the end.
WORKERS := $(shell cores=$$(nproc); echo $$((cores < 6 ? cores + 2 : 8)))
SIDE_BY_SIDE := .venv/bin/python -m pytest --numprocesses $(WORKERS) --dist loadscope --no-loadscope-reorder --durations 20

test: .venv/installed-test ## all tests but those with an environment of their own (below)
	$(SIDE_BY_SIDE) tests/workflow tests/live tests/contract tests/browser tests/unit

test-microsam: .venv-microsam/installed-microsam build/microsam/small_model.pt build/microsam/vit_t/installed build/instanseg/small_model.pt ## micro-sam and InstanSeg through the service (several GB)
	.venv-microsam/bin/python -m pytest tests/microsam tests/instanseg

# Training takes as long as it does; the tests of it have a time limit.
SMALL_MODEL_PARTS := tests/microsam/make_small_model.py tests/microsam/plugin/small_sam.py
build/microsam/small_model.pt: $(SMALL_MODEL_PARTS) | .venv-microsam/installed-microsam
	PYTHONPATH=tests/microsam/plugin .venv-microsam/bin/python $< $@

test-cellpose: .venv-cellpose/installed-cellpose build/cellpose/tiny_model ## Cellpose's own classes through the engine (several GB)
	.venv-cellpose/bin/python -m pytest tests/cellpose

build/cellpose/tiny_model: tests/cellpose/make_tiny_model.py tests/cellpose/plugin/tiny_cellpose.py | .venv-cellpose/installed-cellpose
	PYTHONPATH=tests/cellpose/plugin .venv-cellpose/bin/python $< $@

# Beside the environment: once the module mobile_sam is there, micro-sam takes all classes from it.
build/microsam/vit_t/installed: requirements.lock | .venv-microsam/installed-microsam
	.venv-microsam/bin/uv pip install --quiet --python .venv-microsam/bin/python --target $(@D) --no-deps \
	  --constraints requirements.lock mobilesam-mirror
	@touch $@

# InstanSeg trains and writes the model alone; what segments with it needs torch.
build/instanseg/packages/installed: tests/instanseg/requirements.lock | .venv-microsam/installed-microsam
	rm -rf $(@D)
	.venv-microsam/bin/uv pip install --quiet --python .venv-microsam/bin/python --target $(@D) --no-deps \
	  --require-hashes --requirement $<
	@touch $@

build/instanseg/small_model.pt: tests/instanseg/make_small_instanseg.py build/instanseg/packages/installed
	PYTHONPATH=build/instanseg/packages:tests/microsam:tests/microsam/plugin \
	  .venv-microsam/bin/python -W ignore $< $@

test-bioengine: .venv/installed-test ## the app on a stock BioEngine worker; BIOENGINE_PYTHON=its python
	@test -x "$(BIOENGINE_PYTHON)" || { echo 'name the python of an environment with BioEngine (docs/bioengine.md): make test-bioengine BIOENGINE_PYTHON=...'; exit 1; }
	BIOENGINE_PYTHON='$(abspath $(BIOENGINE_PYTHON))' .venv/bin/python -m pytest -m bioengine tests/bioengine

test-crate: .venv/installed-test build/crate-venv/installed ## a run's crate against the public validator, and the run made again from it
	CRATE_PYTHON=build/crate-venv/bin/python .venv/bin/python -m pytest -m crate tests/crate

test-slurm: .venv/installed-test ## the workflow on a real SLURM cluster, started here (root; slurm-wlm and munge installed)
	.venv/bin/python -m pytest -m slurm tests/slurm --durations 20

test-faults: .venv/installed-test ## whole runs under each fault and mixtures (root; iproute2 and nftables installed)
	.venv/bin/python -m pytest --numprocesses $(WORKERS) --dist worksteal -m faults tests/scenarios --durations 20

SECONDS = 3600
SEED = 1
soak: .venv/installed-test ## runs under faults for SECONDS=3600 from SEED=1 on (as test-faults)
	PYTHONPATH=tests:bench/networks .venv/bin/python -m scenarios.soak --seconds $(SECONDS) --seed $(SEED) $(if $(ONLY),--only $(ONLY))

upstream: .venv/bin/uv ## newest releases: has micro-sam SAM 2, are others' defects still there (service/upstream)
	.venv/bin/uv venv --quiet --clear --python .venv/bin/python build/upstream-venv
	.venv/bin/uv pip install --quiet --python build/upstream-venv/bin/python --upgrade \
	  hypha-rpc aiortc 'hypha[s3]' 'sqlmodel<0.0.38'
	@status=0; export PYTHONPATH=service; \
	.venv/bin/python -m upstream.micro_sam_release || status=$$?; \
	build/upstream-venv/bin/python -W ignore -m upstream || status=$$?; exit $$status

CHECKS := check/units check/types check/format check/workflow
check: .venv/installed-test ## format, lint, types, workflow, unit tests (under a minute on two cores)
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target STEPS_AT_ONCE=yes $(CHECKS)

# They compute, and each worker collects them all: no more workers than cores.
check/units:
	$(SIDE_BY_SIDE) --numprocesses logical --maxprocesses 8 --quiet tests/unit

check/types:
	.venv/bin/mypy
	.venv/bin/lint-imports

check/format:
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .

check/workflow:
	.venv/bin/snakefmt --check Snakefile workflow
	.venv/bin/python tests/workflow/lint.py
	.venv/bin/snakemake --dry-run --quiet

fuzz: .venv/installed-test ## the wire decoders against a million hostile cases each, in 3 GB of address space
	ulimit -v 3000000; FUZZ_CASES=$${FUZZ_CASES:-1000000} .venv/bin/python -m pytest -q --timeout=0 \
	  tests/unit/service/contract/test_wire_fuzz.py --durations=3

audit: .venv/installed-test ## known vulnerabilities of the lock (needs the internet)
	.venv/bin/uv tool run pip-audit==2.10.* --strict --disable-pip --progress-spinner off \
	  --requirement requirements.lock

bench: .venv/installed-test ## measure against the naive client, the raw network and a service that takes its time
	.venv/bin/python bench/naive.py
	.venv/bin/python bench/limits.py
	.venv/bin/python bench/busy.py
	.venv/bin/python bench/masks.py
	.venv/bin/python bench/crowd.py
	.venv/bin/python bench/reading.py
	.venv/bin/python bench/start.py

bench-watershed: .venv/installed-test ## compare the default engine with Otsu's threshold on real and generated images
	.venv/bin/python bench/watershed.py

bench-pipeline: .venv/installed-test .venv-microsam/installed-microsam ## the service's pipeline with a device that sleeps
	.venv/bin/python bench/pipeline.py
	.venv-microsam/bin/python bench/pipeline.py --generate

bench-engine: .venv-microsam/installed-microsam build/microsam/small_model.pt ## micro-sam on the GPU, or with a device that sleeps: images/s and busy share
	.venv-microsam/bin/python bench/engine.py
	.venv-microsam/bin/python bench/folder.py

bench-large: .venv/installed-test ## images of 16 384 and 30 000 pixels a side in tiles (the first half an hour and 13 GB)
	.venv/bin/python bench/large.py 16384
	.venv/bin/python bench/large.py 30000

bench-networks: .venv/installed-test ## measure the transports in slow, blocked and failing networks (root)
	.venv/bin/python bench/networks

docs: build/docs-venv/installed ## the pages of docs/ as a site in build/docs; a broken link is an error
	build/docs-venv/bin/mkdocs build --strict --site-dir build/docs

COMPILE = .venv/bin/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 \
  --fork-strategy fewest --no-emit-index-url

schemas: .venv/installed-test ## write workflow/schemas/ from the types of the settings and the image log
	.venv/bin/python -m samcourier.pipeline.config > workflow/schemas/config.schema.yaml
	.venv/bin/python -m samcourier.results.image_log_schema > workflow/schemas/image-log.schema.json

lock: .venv/bin/uv ## write requirements.lock and environment.yml after a change of pyproject.toml
	$(COMPILE) --all-extras --group build --generate-hashes \
	  --custom-compile-command 'make lock' $(LOCK_FLAGS) --output-file requirements.lock >/dev/null
	{ printf '%s\n' \
	    '# Written by `make lock`: the versions of requirements.lock, for conda users.' \
	    'name: samcourier' \
	    'channels: [conda-forge, nodefaults]' \
	    'dependencies:' \
	    '  - python=3.12' \
	    '  - pip' \
	    '  - pip:' \
	    '      - -e .[local,outputs]'; \
	  $(COMPILE) --extra local --extra outputs --constraints requirements.lock --no-annotate --no-header \
	    | sed -E "s/ ; python_full_version < '3.15' and \(sys_platform == 'darwin' or sys_platform == 'linux'\)$$//; s/^/      - /"; \
	} > environment.yml.new
	mv environment.yml.new environment.yml
	for folder in docs tests/crate; do \
	  .venv/bin/uv pip compile $$folder/requirements.in --quiet --universal --python-version 3.11 \
	    --no-emit-index-url --generate-hashes --custom-compile-command 'make lock' $(LOCK_FLAGS) \
	    --output-file $$folder/requirements.lock >/dev/null; \
	done
	.venv/bin/uv pip compile tests/instanseg/requirements.in --quiet --no-deps --universal --python-version 3.11 \
	  --no-emit-index-url --generate-hashes --custom-compile-command 'make lock' $(LOCK_FLAGS) \
	  --output-file tests/instanseg/requirements.lock >/dev/null

upgrade: LOCK_FLAGS = --upgrade
upgrade: lock ## lock with every version free to rise

build/crate-venv/installed: tests/crate/requirements.lock
build/docs-venv/installed: docs/requirements.lock
build/crate-venv/installed build/docs-venv/installed: .venv/bin/uv
	.venv/bin/uv venv --quiet --clear --python .venv/bin/python $(@D)
	.venv/bin/uv pip install --quiet --python $(@D)/bin/python --require-hashes \
	  --requirement $(filter %.lock,$^)
	@touch $@

clean: ## remove environments and caches; data, results and .snakemake stay
	rm -rf .venv .venv-microsam .venv-cellpose build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# uv itself comes by pip, held to the lock's hash. The touch stands for a clock that pip may turn back.
.venv/bin/uv .venv-microsam/bin/uv .venv-cellpose/bin/uv: %/bin/uv: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "samcourier needs Python 3.11 or later, but $(PYTHON) is %d.%d; name another: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv --clear $*
	@echo '*' > $*/.gitignore
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > $*/uv.lock
	$*/bin/python -m pip install --quiet --require-hashes --requirement $*/uv.lock
	@touch $@

INSTALLED := .venv/installed-local .venv/installed-test .venv-microsam/installed-microsam \
  .venv-cellpose/installed-cellpose
.venv/installed-local: EXTRAS = local,outputs
.venv/installed-test: EXTRAS = local,outputs,remote,slurm,test
.venv-microsam/installed-microsam: EXTRAS = local,microsam,outputs,test
.venv-cellpose/installed-cellpose: EXTRAS = local,cellpose,outputs,test
.venv/installed-local .venv/installed-test: .venv/bin/uv
.venv-microsam/installed-microsam: .venv-microsam/bin/uv
.venv-cellpose/installed-cellpose: .venv-cellpose/bin/uv

$(INSTALLED): pyproject.toml
	$(call install_into,$(@D))
	@touch $@

EXTRAS = local,outputs
# uv checks the hashes of constraints; tests/unit/test_packaging.py shows that it does.
install_into = $(1)/bin/uv pip install --quiet --python $(1)/bin/python --constraints requirements.lock \
  --build-constraints requirements.lock --editable '.[$(EXTRAS)]'
