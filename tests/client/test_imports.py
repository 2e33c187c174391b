"""The clients need nothing but requirements-api.txt, and import no framework and no library of a server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests import api_installation
from tests.api_installation import FRAMEWORKS, ROOT

SCRIPT = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
from pipeline.client import command
code = command.main(["caption", "a.mp4", "--base_url", "http://127.0.0.1:1/v1"])  # nothing listens there
assert code == 1, code
print(",".join(sorted(sys.modules)))
"""


def test_every_module_of_the_clients_can_be_imported(tmp_path: Path) -> None:
    files = [file for file in (ROOT / "pipeline" / "client").rglob("*.py") if file.name != "__main__.py"]
    modules = sorted(".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *modules],
        cwd=tmp_path,
        env=api_installation.environment(tmp_path / "hook"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "/models gives no answer" in done.stderr
    imported = set(done.stdout.strip().split(","))
    assert "pipeline.client.caption" in imported and not imported & {*FRAMEWORKS, "starlette", "uvicorn"}
