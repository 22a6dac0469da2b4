"""What the documentation tells users to import."""

from __future__ import annotations

DOCUMENTED = {
    "heron_mqtt": ["__version__"],
    "heron_mqtt.agents": ["Agent", "Deadlines", "Proxy", "StepReport", "SystemOperator"],
    "heron_mqtt.agents.proxy": ["Proxy"],
    "heron_mqtt.messaging.base": [
        "Announcement",
        "Delivery",
        "Features",
        "MessageBroker",
        "Received",
        "Subscription",
    ],
    "heron_mqtt.messaging.embedded": ["EmbeddedBroker"],
    "heron_mqtt.messaging.memory": ["InMemoryBroker"],
    "heron_mqtt.messaging.mqtt": ["MqttBroker"],
    "heron_mqtt.messages": [
        *("Accept", "Action", "Command", "Confirm", "Consensus", "Observation", "Offer", "PriceSignal"),
        *("RunState", "Setpoint", "Status", "Telemetry", "parse", "parse_any"),
    ],
    "heron_mqtt.protocols.consensus": ["ConsensusSession"],
    "heron_mqtt.protocols.p2p": ["Bid", "P2PSession", "Settlement", "Trade", "settle"],
    "heron_mqtt.protocols.price": ["PriceFollower"],
    "heron_mqtt.protocols.setpoint": ["CommandFollower"],
    "powergrid.agents": ["GridAgent"],
    "powergrid.devices": [
        "Battery",
        "BatterySpec",
        "Generator",
        "GeneratorSpec",
        "Load",
        "LoadSpec",
        "Pv",
        "PvSpec",
    ],
    "powergrid.envs": ["MultiAgentMicrogrids"],
    "powergrid.networks": ["load_network", "network_names"],
    "powergrid.powerflow": ["PowerFlow", "make_power_flow"],
    "powergrid.profiles": ["Profiles", "load_profiles"],
    "powergrid.scenario": ["Scenario", "load_scenario", "scenario_from_dict"],
}
