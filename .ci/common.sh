# What .ci/run and .ci/slow share; they source it. A machine where nothing was installed by hand is enough.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
work=$(mktemp -d)
trap cleanup EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
export HERON_NO_SKIPS=1  # see run_tests
unset PYTHONDONTWRITEBYTECODE  # or each of some hundred processes compiles what the one before it has compiled
python=${PYTHON:-python3}

# What has finished beside what failed has its say too; what has not is ended.
cleanup() {
  local code=$? name
  for name in "${!beside[@]}"; do
    if kill -0 "${beside[$name]}" 2>/dev/null; then
      end_group "$name"
    else
      step "$name, which went on beside that"
      ended "$name" || true
    fi
  done
  rm -rf "$work" || true
  exit "$code"
}

step() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }

# beside NAME COMMAND...: run it while something else waits for the network, or for time to pass.
# beside NAME after EARLIER COMMAND...: the same, and begin when what goes on beside as EARLIER has ended.
# ended NAME: wait for it, print what it printed, end what it has left running, and return its exit code.
# joined NAME: the same, and end as it ended.
# joined_or_alone NAME COMMAND...: what fails beside other things is run once more, alone, and named.
declare -A beside
beside() {
  local name=$1
  shift
  rm -f "$work/$name.ended"
  set -m  # a process group of its own: what it has started ends with it
  (
    trap 'touch "$work/$name.ended"' EXIT
    "$@"
  ) >"$work/$name.log" 2>&1 </dev/null &
  set +m
  beside[$name]=$!
}
after() {
  local earlier=$1
  shift
  until [ -e "$work/$earlier.ended" ]; do sleep 0.2; done
  "$@"
}
end_group() {
  kill -- "-${beside[$1]}" 2>/dev/null || true
  unset "beside[$1]"
}
ended() {
  local code=0
  wait "${beside[$1]}" || code=$?
  end_group "$1"
  cat "$work/$1.log"
  [ "$code" = 0 ] || echo "$1: ended with exit code $code"
  return "$code"
}
joined() {
  local code=0
  ended "$1" || code=$?
  [ "$code" = 0 ] || exit "$code"
}
joined_or_alone() {
  local name=$1 code=0
  shift
  ended "$name" || code=$?
  if [ "$code" != 0 ]; then
    step "once more, alone: $name"
    beside "$name" "$@"
    joined "$name"
    printf '{"%s": true}' ".ci/run $name" >"$work/failed.json"
    "$work/venv/bin/python" "$root/.ci/unsteady.py" "$work/failed.json" "$root/.ci/unsteady.txt"
  fi
}

# install ENVIRONMENT REQUIREMENT...: by uv, from the indexes that pip is set to; by pip where uv is not to be had.
# Both are those of the first environment: the others need no pip, which takes 4 s of the processor to put in.
install() {
  local environment=$1
  shift
  if [ -x "$work/venv/bin/uv" ] && [ -z "${PIP_NO_INDEX:-}" ] &&
    env "${uv_settings[@]}" "$work/venv/bin/uv" pip install -q --python "$environment/bin/python" "$@"; then
    return
  fi
  "$work/venv/bin/pip" --python "$environment/bin/python" install -q "$@"
}

# like_pip VARIABLE SETTING SEPARATOR: tell uv what pip is told, by a variable or by its configuration.
uv_settings=(UV_PYTHON_DOWNLOADS=never UV_INDEX_STRATEGY=unsafe-best-match)  # the best of all indexes, as pip does
like_pip() {
  local name=PIP_${2^^} value
  name=${name//-/_}
  value=${!name:-$(sed -n "s/^global\.$2=['\"]\(.*\)['\"]\$/\1/p" "$work/pip-config")}
  value=${value//'\n'/ }  # a list may stand in several lines
  [ -z "$value" ] || uv_settings+=("$1=${value// /$3}")
}

fresh_environment() {
  step "a fresh virtual environment"
  "$python" -m venv "$work/venv"
  "$work/venv/bin/pip" config list >"$work/pip-config" &  # pip takes half a second to begin
  "$work/venv/bin/pip" install -q uv || echo "no uv: pip installs, which takes longer"
  wait $!
  like_pip UV_DEFAULT_INDEX index-url " "
  like_pip UV_EXTRA_INDEX_URL extra-index-url " "
  like_pip UV_FIND_LINKS find-links ,
  like_pip UV_CONSTRAINT constraint " "
  like_pip SSL_CERT_FILE cert " "
  uv_settings+=("UV_CACHE_DIR=${UV_CACHE_DIR:-$work/uv}")
  install "$work/venv" -e '.[test]'
}

# What is not Python's: prepared by install_programs, beside other things, and then told by programs.
programs() {
  step "programs that the tests run against: .ci/debian-packages.txt, .ci/npm-packages.txt"
  joined programs
  export PATH="$PATH:/usr/sbin" HERON_NODE_MODULES="$work/npm/node_modules"
}

install_programs() {
  local package known sudo="" missing=() packages
  PATH="$PATH:/usr/sbin"
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
  mapfile -t packages < <(grep -v '^#' .ci/npm-packages.txt | cut -d' ' -f1)
  npm install --silent --no-audit --no-fund --prefix "$work/npm" "${packages[@]}" >/dev/null
}

# run_tests SELECTION [OPTION...]: the tests that pytest's -m SELECTION names; options for the first try only.
#
# Everything that a test needs is installed: a skip for any other reason than those in tests/conftest.py ends
# with a code of its own, which is not tried again. Many tests wait for real processes and sockets: one that
# fails is run once more, alone, and named, and has no second try the next time.
run_tests() {
  local code=0 pytest=("$work/venv/bin/python" -m pytest -o "cache_dir=$work/cache" -m "$1")
  shift
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
