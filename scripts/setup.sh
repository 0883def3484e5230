# What scripts/demo and scripts/test share: Debian packages where a command is missing, and the virtual environment.
# Sourced with the project's root as the working directory.

say() { printf '\n== %s\n' "$*"; }

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

# Takes command=package pairs; installs the packages whose commands this machine lacks.
need_commands() {
    missing=
    for pair; do
        command -v "${pair%%=*}" >/dev/null 2>&1 || missing="$missing ${pair#*=}"
    done
    python=$(find_python) || missing="$missing python3-venv"
    if [ -n "$missing" ]; then
        install_packages $missing
        python=${python:-$(find_python)} || fail "Python 3.11 or newer with its venv module is needed"
    fi
}

install_packages() {
    command -v apt-get >/dev/null || fail "missing on this machine:$(printf ' %s' "$@")"
    [ "$(id -u)" = 0 ] || fail "not installed (install them as root, or run this script as root): $*"
    say "installing $*"
    (
        # The servers among these packages are started by whoever needs them, not by their installation.
        if [ ! -e /usr/sbin/policy-rc.d ]; then
            trap 'rm -f /usr/sbin/policy-rc.d' EXIT
            printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
            chmod 755 /usr/sbin/policy-rc.d
        fi
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes \
            apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    )
}

# Prints the first interpreter that is new enough and can make a virtual environment. Takes a command to run it with.
find_python() {
    for candidate in python3 /usr/bin/python3 python3.13 python3.12 python3.11; do
        if "$@" "$candidate" -c '
import sys, venv, ensurepip
if sys.version_info < (3, 11):
    sys.exit(1)
print(sys.executable)' 2>/dev/null; then
            return 0
        fi
    done
    return 1
}

# Makes .venv with the project in it, anew only when pyproject.toml or the extras have changed. Takes the extras: "" or "[dev]".
make_venv() {
    stamp="$1 $(cksum pyproject.toml)"
    made=$(cat .venv/stagewright-stamp 2>/dev/null || :)
    # What the tests have installed serves the demo as well.
    if [ ! -x .venv/bin/python ] || { [ "$made" != "$stamp" ] && [ "$made" != "[dev]${stamp#"$1"}" ]; }; then
        say "installing Stagewright into .venv"
        python=${python:-$(find_python)} || fail "Python 3.11 or newer with its venv module is needed"
        "$python" -m venv --clear .venv
        # What tests import, they compile: of the thousands of modules in their packages they need a tenth.
        compile=$([ -z "$1" ] || echo --no-compile)
        .venv/bin/python -m pip install -q --disable-pip-version-check $compile --editable ".$1"
        printf '%s' "$stamp" >.venv/stagewright-stamp
    fi
    # Where Python writes no bytecode of its own accord, each start would compile all modules.
    .venv/bin/python -m compileall -q src
}
