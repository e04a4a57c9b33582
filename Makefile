# Everything a person or CI runs. `make help` lists it.

VENV := .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# What a user writes after PROMPT= reaches Python byte for byte: `value` takes it unexpanded, so that $ stays $, and
# it travels in the environment, never through a shell's parser. A name that was not given stays unset.
define pass_on
ifneq ($$(origin $(1)),undefined)
export FLEXSPEC_MAKE_$(1) := $$(value $(1))
endif
unexport $(1)
endef
$(foreach name,PROMPT CHAT LINK OUTAGE PAIR,$(eval $(call pass_on,$(name))))

export PYTHON TORCH_INDEX

SITE := build/docs
TESTS := tests
PROSE := schemas flexspec_mq edge_node cloud_worker broker lab training tests scripts docs README.md CONTRIBUTING.md \
	CHANGELOG.md

.PHONY: help setup setup-dev demo demo-evolution test test-lab test-page docs release lint format check-lint check-tests bench-quick clean distclean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  make demo PROMPT='…'     what to write about; may hold any character and several lines"
	@echo "  make demo CHAT=1         a conversation in the terminal, as of flexspec chat"
	@echo "  make demo PAIR=NAME      with another pair of models, fetched once: flexspec pairs lists them"
	@echo "  make demo LINK=wifi      over another network than 4g: wifi, satellite or loopback"
	@echo "  make demo OUTAGE=30      seconds for which the network is cut, instead of 3"
	@echo "  make setup PYTHON=…      the interpreter to make $(VENV) with; 3.11 or later"
	@echo "  make setup TORCH_INDEX=… the package index to take torch from, where the default one would give a"
	@echo "                           CUDA build of several GB that this machine has no use for"
	@echo "  make docs SITE=…         folder of the site; versions that lie there stay, and its chooser lists all"
	@echo "  make test PYTEST_ARGS=…  further arguments for pytest"

setup: ## install what is missing to run it: Mosquitto, .venv, the default model (a second when nothing is)
	@scripts/setup.sh

setup-dev: ## and what its developers need: tools, laboratory, training, Helm; whatever below needs them calls this
	@scripts/setup.sh dev

demo: setup ## one answer over a mobile network that is cut, without drafts and with them, side by side
	@scripts/demo.sh

demo-evolution: setup-dev ## publish a new version of the target while an answer streams
	@$(BIN)/python -m lab.demo.evolution

# Linters beside the tests, which wait for half of their time: mypy takes half a minute where it has no cache.
test: setup-dev ## all of lint, and the product's tests
	@$(MAKE) --no-print-directory -j2 check-lint check-tests TESTS="tests --ignore=tests/lab --ignore=tests/training --ignore=tests/page"

test-lab: setup-dev ## tests of the laboratory and of training
	@$(MAKE) --no-print-directory check-tests TESTS="tests/lab tests/training"

test-page: setup-dev ## the page in a real Chromium, which this installs where it is missing (tests/page)
	@scripts/setup.sh browser
	@$(BIN)/python -m pytest tests/page $(PYTEST_ARGS)

release: setup-dev ## build and try a release of the last commit, in dist/; publishes nothing
	@$(BIN)/python scripts/release.py

docs: setup-dev ## these documents as a site: build/docs/index.html
	$(BIN)/sphinx-build -qEW --keep-going -c docs -d build/doctrees . \
		$(SITE)/$$($(BIN)/python -c 'import flexspec_mq; print(flexspec_mq.__version__)')

lint: setup-dev ## ruff, mypy, import arrows, prose, budgets of lines and commit subjects only
	@$(MAKE) --no-print-directory check-lint

check-lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/prose_lint.py $(PROSE)
	$(BIN)/python scripts/size_budgets.py
	$(BIN)/python scripts/commit_subjects.py

# Many processes run the same sources, so these are compiled once even where Python is told not to keep what it compiled.
# Five processes share two cores, as most tests wait for daemons and links for more than half of their time (at most five:
# each holds a model). A process of tests that dies ends the run and is named: by files, xdist gives its tests to nobody
# else and would wait for them for ever.
check-tests:
	@unset PYTHONDONTWRITEBYTECODE; many=$$((5 * $$(nproc) / 2)); [ "$$many" -le 5 ] || many=5; \
	$(BIN)/python -m pytest -n $$many --dist loadfile --no-loadscope-reorder --max-worker-restart=0 $(TESTS) $(PYTEST_ARGS)

format: setup-dev ## put all files into the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-quick: setup-dev ## most benchmarks in their short form, each within a minute (answers only as root)
	@for name in transport engine acceptance evolution $$([ "$$(id -u)" -ne 0 ] || echo answers); do \
		echo "== $$name"; $(BIN)/python -m lab.benchmarks.$$name --quick || exit 1; done
	$(BIN)/python -m lab.chaos --quick

clean: ## remove caches and build results; keeps .venv and the converted model
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	find . -path ./$(VENV) -prune -o -path ./.git -prune -o -type d -name __pycache__ -exec rm -rf {} +

distclean: clean ## clean, and remove .venv as well
	rm -rf $(VENV)
