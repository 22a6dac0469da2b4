# What .ci/run and .ci/slow share; they source it. A machine where nothing was installed by hand is enough.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
unset PYTHONDONTWRITEBYTECODE  # or each of some hundred processes compiles what the one before it has compiled
python=${PYTHON:-python3}

step() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }

fresh_environment() {
  step "a fresh virtual environment"
  "$python" -m venv "$work/venv"
  "$work/venv/bin/pip" install -q -e '.[test]'
}

programs() {
  step "programs that the tests run against: .ci/debian-packages.txt"
  local package known sudo="" missing=()
  export PATH="$PATH:/usr/sbin"
  while read -r package known _; do
    case "$package" in "" | "#"*) continue ;; esac
    command -v "$known" >/dev/null 2>&1 || [ -e "$known" ] || missing+=("$package")
  done <.ci/debian-packages.txt
  if [ "${#missing[@]}" -gt 0 ]; then
    [ "$(id -u)" = 0 ] || sudo="sudo"
    # Debian starts an installed mosquitto as a service; the tests start their own on free ports.
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    echo "installed: ${missing[*]}"
  fi

  step "packages of npm that the tests use: .ci/npm-packages.txt"
  local packages
  mapfile -t packages < <(grep -v '^#' .ci/npm-packages.txt | cut -d' ' -f1)
  npm install --silent --no-audit --no-fund --prefix "$work/npm" "${packages[@]}" >/dev/null
  export HERON_NODE_MODULES="$work/npm/node_modules"
}

# run_tests SELECTION [OPTION...]: the tests that pytest's -m SELECTION names; options for the first try only.
#
# Everything that a test needs is installed: a skip for any other reason than those in tests/conftest.py ends
# with a code of its own, which is not tried again. Many tests wait for real processes and sockets: one that
# fails is run once more, alone, and named, and has no second try the next time.
run_tests() {
  local code=0 pytest=("$work/venv/bin/python" -m pytest -o "cache_dir=$work/cache" -m "$1")
  shift
  export HERON_NO_SKIPS=1
  COVERAGE_FILE="$work/coverage" "${pytest[@]}" "$@" || code=$?
  if [ "$code" = 1 ]; then
    cp "$work/cache/v/cache/lastfailed" "$work/failed.json"
    step "once more, one at a time: what failed"
    "${pytest[@]}" -n 0 --last-failed --last-failed-no-failures none
    "$work/venv/bin/python" .ci/unsteady.py "$work/failed.json" .ci/unsteady.txt
  elif [ "$code" != 0 ]; then
    exit "$code"
  fi
}
