"""Trades: each settled once, and money conserved."""

from __future__ import annotations

import json
from collections import defaultdict

from heron_mqtt.record.reader import RecordFile
from heron_mqtt.record.verify.finding import Finding, at, near

TOLERANCE = 1e-9  # $, rounding of a few dozen sums


def check_trades(record: RecordFile) -> Finding:
    """Check that a pair settles at most once a step, and that the two sides' money adds up to nothing."""
    found = Finding("trades settled once, money conserved")
    earned: dict[tuple[int, int, str], float] = defaultdict(float)
    seen: set[tuple[int, int, str, str]] = set()
    known = set(record.agents)
    for row in record.query("SELECT * FROM trade_row WHERE void_reason IS NULL ORDER BY id"):
        step, seller, buyer = (row["episode"], row["step"]), row["seller"], row["buyer"]
        who = f"{seller} -> {buyer}"
        pair = (*step, *sorted((seller, buyer)))
        found.check(pair not in seen, f"{at(*step)}: {who} settled twice")
        seen.add(pair)
        sound = seller != buyer and {seller, buyer} <= known and row["mwh"] > 0.0
        found.check(sound, f"{at(*step)}: {who}: no trade of {row['mwh']} MWh is possible between them")
        money = row["mwh"] * row["price_per_mwh"]
        earned[*step, seller] += money
        earned[*step, buyer] -= money
    sums: dict[tuple[int, int], float] = defaultdict(float)
    for row in record.query("SELECT episode, step, agent, reward_terms FROM agent_row ORDER BY id"):
        step, said = (row["episode"], row["step"]), json.loads(row["reward_terms"]).get("trades")
        if said is None:  # the power flow diverged: nothing was rewarded
            continue
        due = earned.get((*step, row["agent"]), 0.0)
        found.check(
            near(said, due, TOLERANCE),
            f"{at(*step, row['agent'])}: earned {said:.9g} $ with trades, its trades come to {due:.9g} $",
        )
        sums[step] += said
    for step, total in sums.items():
        found.check(abs(total) <= TOLERANCE * 10, f"{at(*step)}: {total:.9g} $ came out of nothing")
    return found
