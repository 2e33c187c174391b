#!/usr/bin/env bash
# Creates .venv if needed, then runs every check: ruff, mypy, and all tests. Arguments are passed to pytest.
# The tests run in two processes (`-n 2`, for two CPU cores); tests/conftest.py says which tests share a process.
# `-n 0` runs them in one process, for a debugger.
# The tests of the gallery need Chromium. If it is missing, root on Debian installs it here; otherwise they are skipped.
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
