#!/usr/bin/env bash
# `make test`: installs what is missing when it may (root with apt), runs every suite, ends with the skips by reason.
set -u
cd "$(dirname "$0")/.." || exit 2
wanted=()
[[ -x /usr/sbin/mosquitto ]] || command -v mosquitto >/dev/null || wanted+=(mosquitto)
command -v ip >/dev/null || wanted+=(iproute2)
command -v tmux >/dev/null || wanted+=(tmux)
command -v chromium >/dev/null || wanted+=(chromium)
command -v nft >/dev/null || [[ -x /usr/sbin/nft ]] || wanted+=(nftables)
compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || wanted+=(libfaketime)
if ((${#wanted[@]})); then
  if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    echo "installing system packages for the tests: ${wanted[*]}"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${wanted[@]}"; } >/dev/null 2>&1 ||
      echo "could not install ${wanted[*]}: tests that need them will skip"
  else
    echo "not installed (needs root): ${wanted[*]}; tests that need them will skip"
  fi
fi
fetch_prometheus() {  # the two programs alone: its package would start a server here
  local folder
  folder=$(mktemp -d) || return 1
  (
    set -o pipefail
    cd "$folder" && apt-get download -qq prometheus &&
      dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool ./usr/bin/prometheus
  ) >/dev/null 2>&1 && mkdir -p out/prometheus && mv "$folder"/usr/bin/* out/prometheus/
  local fetched=$?
  rm -rf "$folder"
  return $fetched
}
if [[ ! -x out/prometheus/prometheus ]] && ! command -v prometheus >/dev/null; then
  echo "fetching Prometheus for the tests"
  fetch_prometheus || { [[ $(id -u) == 0 ]] && apt-get update -qq >/dev/null 2>&1 && fetch_prometheus; } ||
    echo "could not fetch Prometheus: tests that need it will skip"
fi
mkdir -p out/test
pytest=(.venv/bin/python -m pytest)
(($#)) && exec "${pytest[@]}" --junitxml=out/test/junit.xml "$@"

# What starts daemons mostly waits for them, so that what only computes runs beside it.
waiting=(tests/faults tests/integration)
computing=()
for folder in tests/*/; do
  folder=${folder%/}
  [[ " ${waiting[*]} tests/browser tests/support tests/__pycache__ " == *" $folder "* ]] || computing+=("$folder")
done
beside() {  # a browser's driver keeps a loop of its own in the process: it gets one for itself
  "${pytest[@]}" -p no:cacheprovider --junitxml=out/test/junit-computing.xml "${computing[@]}"
  local computed=$?
  ((computed == 2)) && return 2  # told to stop
  "${pytest[@]}" -p no:cacheprovider --junitxml=out/test/junit-browser.xml tests/browser && return $computed
}
signal_all() {
  local group
  for group in $(jobs -p); do
    kill "-$1" -- "-$group" 2>/dev/null
  done
}
stop() {  # once: pytest takes down what its tests started, and tells; twice: at once
  trap "signal_all KILL; exit $1" INT TERM HUP
  signal_all INT
  wait
  exit "$1"
}
echo "two at a time: ${computing[*]} and tests/browser (told at the end), and ${waiting[*]}"
# A group each, so that Ctrl-C reaches nobody but this shell, which interrupts each group once. A shell ignores
# SIGINT for what it starts behind itself, and so would Python.
pytest=(env --default-signal=INT "${pytest[@]}")
trap 'stop 129' HUP
trap 'stop 130' INT
trap 'stop 143' TERM
set -m
beside >out/test/computing.log 2>&1 &
beside=$!
"${pytest[@]}" --junitxml=out/test/junit.xml "${waiting[@]}" </dev/null &
waited_for=$!
set +m
wait "$waited_for"
waited=$?
wait "$beside"
computed=$?
cat out/test/computing.log
exit $((waited | computed))
