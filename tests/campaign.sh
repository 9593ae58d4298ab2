#!/usr/bin/env bash
# `make campaign [ARGS="-k replayed"]`: the fault tests at their full size; ends with violations per fault.
set -u
cd "$(dirname "$0")/.." || exit 2
mkdir -p out/campaign
rm -f out/campaign/faults.jsonl
EDGEWEAVE_CAMPAIGN=1 .venv/bin/python -m pytest -q tests/integration/test_hostile_broker.py \
  tests/integration/test_hostile_restarts.py tests/integration/test_floods.py \
  tests/integration/test_journal_power_cut.py \
  --junitxml=out/campaign/junit.xml "$@"
code=$?
.venv/bin/python -m tests.support.scale || exit 1
exit $code
