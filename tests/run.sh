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
  "${pytest[@]}" -p no:cacheprovider --junitxml=out/test/junit-browser.xml tests/browser && return $computed
}
echo "two at a time: ${computing[*]} and tests/browser (told at the end), and ${waiting[*]}"
beside >out/test/computing.log 2>&1 &
beside=$!
trap 'kill "$beside" 2>/dev/null' EXIT
"${pytest[@]}" --junitxml=out/test/junit.xml "${waiting[@]}"
waited=$?
wait "$beside"
computed=$?
trap - EXIT
cat out/test/computing.log
exit $((waited | computed))
