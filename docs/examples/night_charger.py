"""A policy of one's own: charge in the first hours of the day, and give it back in the evening."""

from powergrid.agents.policy import AgentPolicy


class NightCharger(AgentPolicy):
    """Batteries take half of their power until ``until_h`` and give it from six in the evening on."""

    def __init__(self, context, until_h=5.0):
        super().__init__(context)
        self.until_s = 3600.0 * until_h
        self.specs = context.scenario.microgrids[context.agent_id].devices

    def decide(self, view):
        if view.clock_s < self.until_s:
            return {"p_ess": -0.5 * self.specs["ess"].spec.max_p_charge_mw}
        if view.clock_s >= 18 * 3600.0:
            return {"p_ess": 0.5 * self.specs["ess"].spec.max_p_discharge_mw}
        return {"p_ess": 0.0}
