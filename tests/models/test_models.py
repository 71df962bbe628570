"""The Spin models of the shared-memory protocols hold, and their mutants are caught: the short form of `make models`."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from support.paths import ROOT

MODELS = ROOT / "models"
CASES = [line.split(None, 3) for line in (MODELS / "cases").read_text().splitlines() if line and not line.startswith("#")]
NAMES = sorted({case[0] for case in CASES})
needs_spin = pytest.mark.skipif(not (shutil.which("spin") and shutil.which("gcc")), reason="needs spin and gcc: apt-get install spin gcc")


@needs_spin
@pytest.mark.parametrize("name", NAMES)
def test_model_holds_and_its_mutants_are_caught(name):
    expected = [case for case in CASES if case[0] == name and case[1] == "short"]
    done = subprocess.run([MODELS / "check", "short", name], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("as-expected") == len(expected)


@pytest.mark.parametrize("name", NAMES)
def test_model_has_a_short_form_and_a_mutant(name):
    assert {(kind, outcome) for model, kind, outcome, *_ in CASES if model == name} >= {("short", "ok"), ("short", "fails")}


def test_every_model_is_checked():
    assert {path.stem for path in MODELS.glob("*.pml")} == set(NAMES)


def test_every_switch_of_a_case_is_known_to_its_model():
    for model, _kind, _outcome, *switches in CASES:
        text = (MODELS / f"{model}.pml").read_text()
        for switch in re.findall(r"-D(\w+)", " ".join(switches)):
            assert re.search(rf"\b{switch}\b", text.split("*/", 1)[1]), f"{model}.pml does not look at {switch}"
