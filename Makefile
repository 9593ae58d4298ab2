# edgeweave: each target sets up what it needs by itself (virtual environment in the checkout, pinned versions).
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: help setup demo mesh-hosts test faults swarm swarm-faults mutants screenshots lint types contracts check bench bench-state bench-api bench-console clean

help:            ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(VENV)/.ready   ## virtual environment with pinned versions

$(VENV)/.ready: pyproject.toml constraints.txt deploy/setup.sh
	@bash deploy/setup.sh $(VENV)

demo: setup      ## gateway + five nodes on real sensor data, < 60 s; one is killed on purpose, one revoked
	@exec $(BIN)/python -m examples.demo $(ARGS)

mesh-hosts: setup ## several hosts on this machine (root): real mDNS, partitions, loss, delay, bandwidth
	@exec $(BIN)/python -m examples.hosts $(ARGS)

test: setup      ## the whole test suite; as root it installs missing system packages
	@exec bash tests/run.sh $(ARGS)

faults: setup    ## faults on real processes, round after round (hours; goes on where it was): ARGS="--minutes 40"
	@exec $(BIN)/python -m tests.faults.campaign $(ARGS)

swarm: setup     ## seek a seed that breaks a promise: 2 000 drawn meshes in virtual time; goes on with ARGS="--first K"
	@exec $(BIN)/device-sim swarm --seeds 2000 --out out/swarm $(ARGS)

swarm-faults: setup ## one fault at a time in virtual time, until each has struck as the table says; goes on: ARGS="--share 0.1"
	@exec $(BIN)/python -m tests.simulation.fault_swarms $(ARGS)

mutants: setup   ## break promises on purpose, one by one: does a swarm see each (~2 min)
	@exec $(BIN)/python -m tests.simulation.mutants $(ARGS)

screenshots: setup ## pictures of every page of the console, of the demo's mesh, into docs/screenshots
	@exec $(BIN)/python -m tests.browser.screenshots $(ARGS)

lint: setup      ## ruff: style and format
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: setup     ## mypy --strict over the four packages
	@$(BIN)/mypy

contracts: setup ## import-linter: the floors, and purity of every core
	@$(BIN)/lint-imports --no-cache

check: lint types contracts test   ## everything the gate asks for

bench: setup     ## benchmarks beside their peers (own environment for the peers)
	@exec $(BIN)/python -m benchmarks.run $(ARGS)

bench-state: setup ## replicated tables: at the store beside TinyDB and SQLite, then between real daemons (~5 min)
	@$(BIN)/python -m benchmarks.bench_state; at_store=$$?; $(BIN)/python -m benchmarks.bench_state_mesh && exit $$at_store

bench-console: setup ## the console before 1 000 members and 100 000 tasks, five browsers open (~5 min)
	@exec $(BIN)/python -m benchmarks.bench_console $(ARGS)

bench-api: setup ## the HTTP API of a gateway with 1 000 members and 100 000 tasks (~6 min): ARGS="--parts pages"
	@exec $(BIN)/python -m benchmarks.bench_api $(ARGS)

clean:           ## remove the environment and everything that was written
	rm -rf $(VENV) .venv-bench out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
