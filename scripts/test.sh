#!/usr/bin/env bash
# Sets up, then runs every check: formatting rules, types, all tests. Arguments go to pytest.
# The gallery is tested in Chromium: where there is none, it is installed if Debian's tools and rights allow;
# otherwise those tests are skipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
source .venv/bin/activate
if ! command -v chromium chromium-browser google-chrome > /dev/null && command -v apt-get > /dev/null &&
    [ "$(id -u)" = 0 ]; then
    { apt-get update && apt-get install -y --no-install-recommends chromium; } > /dev/null 2>&1 ||
        echo "test: Chromium could not be installed; the tests that need it are skipped" >&2
fi
ruff check .
ruff format --check .
mypy
python -m pytest -n 2 "$@"
exec python -m pytest -n 2 --framework mindspore "$@"
