"""Processes that see only the packages of requirements-api.txt and what these need, as if nothing else was installed.

The packages of the test environment that do not belong to it can't be found: `import` raises ModuleNotFoundError.
Decoding processes inherit this.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements-api.txt"
FRAMEWORKS = ("torch", "mindspore", "mindnlp", "transformers", "tokenizers", "safetensors", "accelerate", "peft")
"""Import names, none of which `caption_api.py` needs."""

_HOOK = '''"""Hides packages from every Python process that has this folder in PYTHONPATH."""
import sys
from importlib.machinery import PathFinder

HIDDEN = frozenset({hidden!r})


class VisiblePackages(PathFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname.partition(".")[0] in HIDDEN:
            return None
        return PathFinder.find_spec(fullname, path, target)


sys.meta_path[:] = [VisiblePackages if finder is PathFinder else finder for finder in sys.meta_path]
'''


def environment(folder: Path) -> dict[str, str]:
    """Environment variables for such a process; writes the module that hides packages into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(_HOOK.format(hidden=hidden_modules()), encoding="utf-8")
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


def hidden_modules() -> list[str]:
    """Import names of the installed packages that do not belong to an installation of requirements-api.txt."""
    visible = installed_packages() | {"pllava-captioner"}
    return sorted(
        module
        for module, packages in importlib.metadata.packages_distributions().items()
        if not {_normal(package) for package in packages} & visible
    )


def installed_packages() -> set[str]:
    """Normalised names of the packages of requirements-api.txt, and of all packages that these need."""
    found: set[str] = set()
    wanted = [Requirement(line) for line in pins(REQUIREMENTS)]
    while wanted:
        requirement = wanted.pop()
        name = _normal(requirement.name)
        if name in found or (requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        wanted += [Requirement(line) for line in importlib.metadata.requires(name) or ()]
    return found


def pins(path: Path) -> list[str]:
    """The lines of a requirements file without comments, blank lines and options."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith(("#", "-"))]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
