"""The requirements files agree, and set-up notices a change of each of them."""

from __future__ import annotations

import re

from tests.api_installation import FRAMEWORKS, REQUIREMENTS, ROOT, hidden_modules, installed_packages, pins


def test_the_pins_of_an_installation_for_services_are_those_of_the_whole_installation() -> None:
    own, whole = pins(REQUIREMENTS), pins(ROOT / "requirements.txt")
    assert len(own) > 10
    assert [pin for pin in own if pin not in whole] == []


def test_an_installation_for_services_has_no_framework() -> None:
    assert set(FRAMEWORKS) & installed_packages() == set()
    assert set(FRAMEWORKS) - set(hidden_modules()) == set()


def test_set_up_notices_a_change_of_every_requirements_file() -> None:
    lines = (ROOT / "scripts" / "setup.sh").read_text(encoding="utf-8").splitlines()
    hashed = next(line for line in lines if line.startswith("wanted="))
    for path in [*ROOT.glob("requirements*.txt"), ROOT / "pyproject.toml"]:
        assert f" {path.name} " in hashed, path.name


def test_the_extra_for_scenes_has_the_versions_of_its_requirements_file() -> None:
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    extra = next(line for line in lines if line.startswith("scenes = "))
    assert re.findall(r'"([^"]+)"', extra) == pins(ROOT / "requirements-scenes.txt")
