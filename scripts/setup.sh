#!/usr/bin/env bash
# Creates .venv and installs all requirements into it. Does nothing if .venv is up to date.
# PYTHON=/path/to/python3.11 selects the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

wanted=$(cat requirements.txt requirements-api.txt requirements-dev.txt requirements-scenes.txt pyproject.toml | sha256sum | cut -d' ' -f1)
if [ -x .venv/bin/python ] && [ "$(cat .venv/installed 2>/dev/null)" = "$wanted $PWD" ]; then
    exit 0
fi

is_supported() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 10), (3, 11)))' 2>/dev/null; }
python=""
for candidate in ${PYTHON:-python3.11 python3.10 python3}; do
    if is_supported "$candidate"; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    found=$("${PYTHON:-python3}" --version 2>&1 || true)
    echo "setup: Python 3.10 or 3.11 is needed (MindSpore 2.7.0 has packages for these); found: ${found:-none}." \
        "Install one of them, or give its path: PYTHON=/path/to/python3.11 $0" >&2
    exit 2
fi

echo "setup: installing into .venv with $("$python" --version); this takes a few minutes and is done only once" >&2
rm -rf .venv
"$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
echo "$wanted $PWD" > .venv/installed
