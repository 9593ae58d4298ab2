#!/usr/bin/env bash
# Makes the virtual environment of this checkout: `deploy/setup.sh DIR`. Run by make; safe to repeat.
set -u
venv=$1
fail() { echo "edgeweave: $*" >&2; exit 1; }

[[ $(uname -s) == Linux ]] || fail "Linux is the platform; this is $(uname -s)"
python=
for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
  [[ -n $candidate ]] && command -v "$candidate" >/dev/null || continue
  if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$candidate; break; fi
done
[[ -n $python ]] || fail "Python 3.11 or newer is missing: install the package python3.11 (Debian, Ubuntu) or set PYTHON=/path/to/python"
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
  fail "the module venv is missing: install the package python3-venv ($("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])') on Debian and Ubuntu)"

echo "edgeweave: setting up $venv (once; $("$python" --version))" >&2
if ! "$venv/bin/python" -c 'import sys' 2>/dev/null; then
  rm -rf "$venv"
  "$python" -m venv "$venv" || fail "could not create $venv"
fi
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt \
  -e '.[gateway,examples,report,dev]' 2> >(grep -v '^WARNING' >&2) || fail "installing the packages failed: is a package index reachable?"
# TinyDB's own tests, by their hash; whatever is missing then, the test that needs them fetches.
"$venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-input --no-deps --no-binary :all: \
  --no-build-isolation --require-hashes -r deploy/tinydb-suite.txt -d out/tinydb-suite 2> >(grep -v '^WARNING' >&2) ||
  echo "edgeweave: TinyDB's own tests could not be fetched; everything but them works" >&2
touch "$venv/.ready"
