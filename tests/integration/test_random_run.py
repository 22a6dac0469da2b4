"""A run with randomisation, from outside: over a broker with emulated devices, and from its record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from heron_mqtt.config import shipped_config
from support.heron_command import run_heron

TABLE = """\
randomisation = { start = "random", load_noise = 0.1, pv_noise = 0.1, price_noise_per_mwh = 4.0, \
initial_soc = [0.2, 0.8], efficiency_factor = [0.9, 1.0], response_delay_s = [0.0, 400.0] }
"""


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = (shipped_config() / "three_microgrids.toml").read_text(encoding="utf-8")
    mine = tmp_path_factory.mktemp("random") / "random.toml"
    mine.write_text(TABLE + data, encoding="utf-8")
    return mine


def rewards(scenario: Path, seed: int, *options: str) -> dict[str, float]:
    ended = run_heron("run", str(scenario), "--steps", "12", "--seed", str(seed), "--json", *options)
    assert ended.code == 0, ended.err
    told: dict[str, float] = json.loads(ended.out)["rewards"]
    return told


@pytest.mark.slow
def test_emulated_devices_draw_what_the_environment_draws(scenario: Path, tmp_path: Path) -> None:
    record = tmp_path / "run.heron"
    central = rewards(scenario, 5, "--centralized", "--no-record")
    assert rewards(scenario, 5, "--record", str(record)) == pytest.approx(central, abs=1e-9)
    assert rewards(scenario, 6, "--centralized", "--no-record") != pytest.approx(central, abs=1e-3)
    for command in (("verify", str(record)), ("what-if", str(record))):
        ended = run_heron(*command)
        assert ended.code == 0, ended.out + ended.err
