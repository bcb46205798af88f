#!/usr/bin/env bash
# What MiniWorld draws with, from Debian's packages: launch/install_gl.sh PYTHON
#
# Nothing is done where drawing works already. Without root it says what to install and ends well: all but the clips from
# MiniWorld, and their tests, works without.
set -uo pipefail
python=${1:?usage: launch/install_gl.sh PYTHON}
packages=(libegl1 libegl-mesa0 libgl1-mesa-dri libglu1-mesa)

draws() { "$python" -c 'from experiments.worlds.miniworld.canvas import Canvas; Canvas(16)' >/dev/null 2>&1; }

if draws; then exit 0; fi
if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    echo "Installing Debian's ${packages[*]}, with which MiniWorld draws"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${packages[@]}"; } >/dev/null \
        || echo "apt-get could not install them" >&2
fi
draws || echo "MiniWorld cannot draw here, and its tests are skipped; on Debian and Ubuntu run: sudo apt-get install ${packages[*]}" >&2
exit 0
