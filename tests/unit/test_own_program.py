"""A program of ours imports this very package, and nothing of the folder where it was started."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

import pytest

import heron_mqtt
from heron_mqtt.own_program import module_command, module_environment

ROOT = Path(heron_mqtt.__file__).parents[1]


@pytest.mark.usefixtures("fresh_programs")
def test_a_folder_with_the_name_of_a_module_does_not_stand_in_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "heron_mqtt"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong one')\n")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    command = module_command("heron_mqtt.record.writer_main")
    run = partial(subprocess.run, capture_output=True, text=True, check=False)
    ended = run(command, cwd=tmp_path, env=module_environment())
    assert "the wrong one" not in ended.stderr
    assert "not enough values to unpack" in ended.stderr  # it is ours, and misses its arguments


def test_what_the_user_has_on_the_path_stays_after_ours() -> None:
    assert module_environment({"PYTHONPATH": "/lib", "A": "1"}) == {"PYTHONPATH": f"{ROOT}:/lib", "A": "1"}
    assert module_environment({}) == {"PYTHONPATH": str(ROOT)}
