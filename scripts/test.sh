#!/usr/bin/env bash
# Sets up, then runs every check: formatting rules, types, all tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
source .venv/bin/activate
ruff check .
ruff format --check .
mypy
python -m pytest "$@"
exec python -m pytest --framework mindspore "$@"
