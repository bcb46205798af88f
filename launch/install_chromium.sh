#!/usr/bin/env bash
# The browser in which the explorer's page is tested, from Debian's packages: launch/install_chromium.sh
#
# Nothing is done where there is one already. Without root it says what to install and ends well: only these tests are
# skipped then, but not in CI, where the browser must be there.
set -uo pipefail
find_browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; }

if find_browser >/dev/null; then exit 0; fi
if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    echo "Installing Debian's chromium, in which the explorer is tested"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium; } >/dev/null \
        || echo "apt-get could not install it" >&2
fi
find_browser >/dev/null || echo "there is no browser here, and the tests of the explorer's page are skipped; on Debian and Ubuntu run: sudo apt-get install chromium" >&2
exit 0
