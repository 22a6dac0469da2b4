"""What the compiled power flow cannot represent exactly, found before anything is compiled."""

from __future__ import annotations

from typing import Any

import numpy as np

from heron_mqtt.errors import PowerFlowError, UnsupportedElement

__all__ = ["refuse_unsupported", "refuse_unsupported_options", "refuse_zero_impedance"]

_INJECTIONS = {"load", "sgen", "storage", "gen", "ext_grid", "ward", "shunt"}
_BRANCHES = {"bus", "line", "trafo", "impedance", "switch"}
_WITHOUT_EFFECT = {"protection"}
_SUPPORTED = _INJECTIONS | _BRANCHES | _WITHOUT_EFFECT
_KNOWN_UNSUPPORTED = {
    *("trafo3w", "xward", "motor", "dcline", "asymmetric_load", "asymmetric_sgen"),
    *("svc", "tcsc", "ssc", "vsc", "vsc_stacked", "vsc_bipolar"),
    *("bus_dc", "line_dc", "load_dc", "source_dc"),
}
_RESULT_PREFIX = "_empty_res_"
_NAMED = 5  # elements in a message; the others are dots
_HINT = 'solve it with solver = "pandapower", or remove or replace what is named'


def refuse_unsupported(net: Any) -> None:
    """Raise if the network holds an element the compiled power flow cannot represent exactly.

    Besides the tables known to be unsupported, this is every table that pandapower computes results for
    and that is not known here, so that element types of later pandapower versions are refused too.

    Raises:
        UnsupportedElement: Names every such table with its count.
    """
    with_results = {key.removeprefix(_RESULT_PREFIX) for key in net if key.startswith(_RESULT_PREFIX)}
    tables = _KNOWN_UNSUPPORTED | with_results - _SUPPORTED
    found = [f"{name} ({len(net[name])})" for name in sorted(tables) if name in net and len(net[name])]
    found += _special_cases(net)
    if found:
        raise UnsupportedElement(f"the compiled power flow does not support {', '.join(found)}; {_HINT}")


def _special_cases(net: Any) -> list[str]:
    found = []
    voltage_dependent = np.zeros(len(net.load), dtype=bool)
    for column in net.load.columns:
        if column.startswith("const_") and column.endswith("_percent"):
            voltage_dependent |= np.nan_to_num(net.load[column].to_numpy(float)) != 0.0
    if voltage_dependent.any():
        found.append(f"voltage-dependent load ({voltage_dependent.sum()})")
    slack = net.gen["slack"].fillna(False).to_numpy(bool)
    if slack.any():
        found.append(f"gen with slack=True ({slack.sum()})")
    return found


def refuse_zero_impedance(net: Any) -> None:
    """Raise if a line in service has no impedance: no power flow is defined by it.

    Raises:
        PowerFlowError: Names the lines.
    """
    line = net.line[net.line["in_service"].to_numpy(bool)]
    per_km = np.abs(line["r_ohm_per_km"].to_numpy(float)) + np.abs(line["x_ohm_per_km"].to_numpy(float))
    without = line.index[per_km * line["length_km"].to_numpy(float) == 0.0].tolist()
    if without:
        more = ", ..." if len(without) > _NAMED else ""
        raise PowerFlowError(
            f"line {', '.join(map(str, without[:_NAMED]))}{more} has no impedance (r, x or length_km is 0); "
            "join its buses by a closed switch instead"
        )


def refuse_unsupported_options(options: dict[str, Any]) -> None:
    """Raise if pandapower was told, by ``net.user_pf_options``, to solve another problem than ours.

    Raises:
        UnsupportedElement: Names every such option.
    """
    wrong = [
        f"{name}={options[name]!r}"
        for name in ("distributed_slack", "enforce_q_lims", "enforce_p_lims", "tdpf")
        if options.get(name)
    ]
    if options.get("trafo_loading", "current") != "current":
        wrong.append(f"trafo_loading={options['trafo_loading']!r}")
    if not options.get("calculate_voltage_angles", True):
        wrong.append("calculate_voltage_angles=False")
    if wrong:
        raise UnsupportedElement(
            f"the compiled power flow does not support {', '.join(wrong)} in user_pf_options; {_HINT}"
        )
