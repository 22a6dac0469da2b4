"""What is done to the network of a site in a trial: late, chopped, silent, cut, or with losses.

Each of these functions breaks the site once, at a moment that ``rng`` chooses. If a promise of this fault
alone did not hold, it reports this to the site's tally. What holds for all of them ``TrialSite.judge`` asks.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import Any

from heron_mqtt.testing.faults.programs import write_toml
from heron_mqtt.testing.faults.tally import LEASE_S
from heron_mqtt.testing.faults.tcp_link import LinkFaults
from heron_mqtt.testing.faults.trial_site import COUNTED, ENV, SHADOW, TrialSite

BASE = f"heron/{ENV}"
LOSES_S = 12.0
"""Long enough that of every hundredth message that is lost some are those of each kind."""


# -- the network between the broker and what is elsewhere ------------------------------------------------


def late_link(site: TrialSite, rng: random.Random) -> None:
    """Make every packet of the remote proxy and of one battery late, in both directions."""
    _bad_link(site, LinkFaults(delay_s=rng.uniform(0.05, 0.4)), rng)


def chopped_link(site: TrialSite, rng: random.Random) -> None:
    """Hand on what they send and get in pieces of a few bytes."""
    _bad_link(site, LinkFaults(chop=rng.randrange(1, 4)), rng)


def lossy_link(part: float) -> Callable[[TrialSite, random.Random], None]:
    """Return what loses a part of their packets: TCP sends them again, and everything is late."""
    return lambda site, rng: _bad_link(site, LinkFaults(loss=part), rng)


def silent_link(site: TrialSite, rng: random.Random) -> None:
    """Hand on nothing for up to two leases, and close nothing: then everything arrives at once."""
    _bad_link(site, LinkFaults(is_silent=True), rng)


def reset_link(site: TrialSite, rng: random.Random) -> None:
    """Reset their connections, again and again."""
    site.goes_blind()
    for _ in range(rng.randrange(1, 5)):
        time.sleep(rng.uniform(0.0, 0.6))
        site.link.reset()
    site.is_over()
    site.goes_on()


def half_closed_link(site: TrialSite, rng: random.Random) -> None:
    """Close one direction of their connections: one side hears the end, the other does not."""
    site.goes_blind()
    for towards_client in rng.sample([True, False], 2):
        time.sleep(rng.uniform(0.2, 0.8))
        site.link.half_close(towards_client=towards_client)
    site.is_over()
    site.goes_on()


def _bad_link(site: TrialSite, faults: LinkFaults, rng: random.Random) -> None:
    time.sleep(rng.uniform(0.0, 0.5))
    site.goes_blind()
    site.link.faults = faults
    time.sleep(rng.uniform(0.8, 2.0) * LEASE_S)
    site.link.mend()
    site.is_over()
    site.goes_on()


def lost_messages(part: float) -> Callable[[TrialSite, random.Random], None]:
    """Return what runs environment and agents on a network that loses a part of the messages."""

    def lose(site: TrialSite, rng: random.Random) -> None:
        rules = [{"pattern": "#", "loss": part}]
        impairment = {"name": "lossy", "seed": rng.randrange(1 << 30), "rules": rules}
        site.has_nothing_to_recover()
        network = write_toml(site.folder / "lossy.toml", {"impairment": impairment})
        site.end_run()
        site.start_run("--network", str(network))
        site.shadow.period_s = 0.05
        time.sleep(LOSES_S)
        result = site.end_run(compare=False)
        site.shadow.period_s = 0.1
        _compare_losses(site, result, part)
        site.start_run()

    return lose


def _compare_losses(site: TrialSite, result: dict[str, Any], part: float) -> None:
    """Compare what the run counted with what its network lost, and with what the device in shadow said.

    The network loses more than the run can count: what the run sends to others they miss, not the run. But
    each telemetry of the device in shadow must have arrived or be counted. Only those lost before the first
    or after the last one that arrived cannot be noticed.
    """
    if not result:
        site.tally.break_promise("the run gave no result to compare with what was lost")
        return
    done, counted = result["impairment"]["lost"], result["messages"]["lost"]
    site.tally.lost += counted
    if not done:
        site.tally.break_promise("nothing was lost: the fault was not there")
    elif not counted:
        site.tally.break_promise(f"the network lost {done} messages, and the run counted none")
    at_the_ends = math.ceil(math.log(1e-4) / math.log(part))
    device, said = result["devices"][SHADOW], site.said_in_shadow
    known = sum(device[key] for key in COUNTED)
    if not 0 <= said - known <= at_the_ends:
        site.tally.undetected += max(0, said - known)
        site.tally.break_promise(
            f"{SHADOW} said {said}, counted {known}; at most {at_the_ends} may be missing at the ends"
        )
