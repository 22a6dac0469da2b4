"""Rights of a site's users: each has a name of its own, and its role's rights alone on topics of ours."""

from __future__ import annotations

import pytest

from heron_mqtt.app.acl_files import FORMATS, acl_file
from heron_mqtt.errors import ConfigError
from powergrid.scenario import scenario_from_dict
from support.small_grid import scenario


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_names_that_cannot_be_users_and_users_of_one_name_are_refused(kind: str) -> None:
    made = scenario()
    made["microgrids"]["-"] = made["microgrids"].pop("MG2")
    made["microgrids"]["MG1/ess"] = made["microgrids"].pop("MG3")
    with pytest.raises(ConfigError) as caught:
        acl_file(scenario_from_dict(made), kind)
    both = "device and agent are both called 'MG1/ess': one login would have the rights of both"
    assert any(both in line for line in caught.value.problems)
    assert any(
        "agent '-': '-' stands in topics for clients without" in line for line in caught.value.problems
    )


def test_an_agent_or_environment_whose_name_cannot_be_seen_is_refused() -> None:
    for name in ("a\x00b", "a\nuser x", "MG1\u200b"):
        made = scenario()
        made["microgrids"][name] = made["microgrids"].pop("MG3")
        with pytest.raises(ConfigError, match="expected printable characters"):
            scenario_from_dict(made)
        with pytest.raises(ConfigError, match=r"env_id.*expected printable characters"):
            scenario_from_dict({**scenario(), "env_id": name})
