#!/usr/bin/env bash
# Makes a virtual environment with pip: launch/create_venv.sh FOLDER
#
# One that is there and works is kept. PYTHON=/path/to/python chooses the interpreter; otherwise it is the first of
# python3.11, python3.12 and python3 that fits; where none does, as on TPU VMs with Ubuntu 22.04, uv fetches one. A bare
# Debian has no ensurepip (it is in the package python3-venv), so three ways are tried in turn.
set -euo pipefail
folder=${1:?usage: launch/create_venv.sh FOLDER}

fits() {  # Python 3.11 and 3.12 are the versions that constraints.txt pins.
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' >/dev/null 2>&1
}

if [[ -x $folder/bin/python ]] && fits "$folder/bin/python" && "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
    exit 0
fi

if [[ -n ${PYTHON:-} ]]; then
    fits "$PYTHON" || { echo "error: PYTHON=$PYTHON is not a working Python 3.11 or 3.12" >&2; exit 2; }
else
    for PYTHON in python3.11 python3.12 python3 none; do
        if fits "$PYTHON"; then break; fi
    done
    if [[ $PYTHON == none ]]; then
        echo "no Python 3.11 or 3.12 found: fetching one with uv" >&2
        rm -rf "$folder"
        export PATH="$PATH:${HOME:-}/.local/bin" # where pip puts uv
        if { command -v uv || python3 -m pip install --quiet --user --break-system-packages uv \
                || python3 -m pip install --quiet --user uv; } >/dev/null 2>&1 \
            && uv venv --quiet --seed --python 3.12 "$folder"; then
            exit 0
        fi
        echo "error: no Python 3.11 or 3.12 found, and none could be fetched; install one, or name it:" \
            "make PYTHON=/path/to/python3.11" >&2
        exit 2
    fi
fi

has_ensurepip() { "$PYTHON" -c 'import ensurepip' >/dev/null 2>&1; }

rm -rf "$folder"
if ! has_ensurepip && ! "$PYTHON" -m pip --version >/dev/null 2>&1 && [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    echo "$PYTHON has neither ensurepip nor pip: installing Debian's python3-venv"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends python3-venv; } >/dev/null \
        || echo "apt-get could not install python3-venv" >&2
fi

if has_ensurepip; then
    "$PYTHON" -m venv "$folder"
elif "$PYTHON" -m pip --version >/dev/null 2>&1; then  # a pip outside can fill an environment that has none
    "$PYTHON" -m venv --without-pip "$folder"
    "$PYTHON" -m pip --python "$folder/bin/python" install --quiet --ignore-installed pip
else
    echo "error: $PYTHON has neither ensurepip nor pip; on Debian and Ubuntu run: sudo apt-get install python3-venv" >&2
    exit 2
fi
