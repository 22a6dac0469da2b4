"""Proxy: one agent's post office. It carries the agent's messages and never decides for it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from heron_mqtt.agents.base import Agent, StepReport
from heron_mqtt.agents.deadlines import Deadlines
from heron_mqtt.agents.inbox import Inbox
from heron_mqtt.agents.wakeup import Wakeup
from heron_mqtt.field.link import DeviceLink
from heron_mqtt.messages import RunState, Status
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import Announcement, MessageBroker
from heron_mqtt.messaging.codec import Json
from heron_mqtt.messaging.outbox import Outbox

log = logging.getLogger("heron_mqtt.proxy")


class Proxy:
    """Carries one agent's messages: price, observation and command in, peers, devices, action out.

    Messages of another environment, or of another episode or step than the one under way, are ignored
    and counted (``dropped``); a phase that misses its deadline goes on without those who are late, and
    the action says how many phases did.

    Args:
        agent_id: The proxy's own name, for logs; channels carry the agent's id.
        actual_agent: The agent, usually a ``powergrid.agents.GridAgent``.
        broker: Carries the messages; the proxy does not close it.
        upstream_id: The operator whose price it follows.
        peers: Agents it may hear from in the horizontal protocol.
        devices: Names of the devices that are not simulated in process but reached over the broker.
        env_id: The environment it belongs to.
        deadlines: Bounds on every wait.
        lease_s: How long a setpoint holds on a device without a newer one, wall-clock s.
        outbox: Stamps what is published; handed in by tests.
    """

    def __init__(
        self,
        agent_id: str,
        actual_agent: Agent,
        broker: MessageBroker,
        upstream_id: str = "system_operator",
        *,
        peers: Sequence[str] = (),
        devices: Sequence[str] = (),
        env_id: str = "default",
        deadlines: Deadlines | None = None,
        lease_s: float = 30.0,
        outbox: Outbox | None = None,
    ) -> None:
        self.agent_id = agent_id
        self.agent = actual_agent
        self.deadlines = deadlines or Deadlines()
        self.deadline_misses = 0
        mine = actual_agent.agent_id
        self._broker = broker
        self._outbox = outbox or Outbox(mine, env_id)
        self._wakeup = Wakeup()
        self._inbox = Inbox(mine, upstream_id, peers, env_id, broker, self._wakeup)
        self._links = {
            name: DeviceLink(mine, name, broker, lease_s=lease_s, on_change=self._wakeup.notify)
            for name in devices
        }
        self._presence: Announcement | None = None

    @property
    def dropped(self) -> int:
        """Messages ignored: of another environment, episode or step, or from a stranger."""
        return self._inbox.dropped

    # -- life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Subscribe and say ``online``. Idempotent; ``step_distributed`` and ``run`` call it."""
        if self._presence is not None:
            return
        await self._inbox.open()
        for link in self._links.values():
            await link.open()
        self._presence = await self._broker.announce(
            topics.agent(self.agent.agent_id, "status"),
            self._stamp_status(Status(state="online")),
            self._outbox.will(Status(state="offline")),
        )

    async def close(self) -> None:
        """Say ``offline`` and unsubscribe. Idempotent."""
        self._inbox.close()
        for link in self._links.values():
            link.close()
        presence, self._presence = self._presence, None
        if presence is not None:
            await presence.withdraw()

    async def run(self) -> None:
        """Go through every episode and step that upstream begins, until cancelled."""
        await self.start()
        inbox = self._inbox
        while True:
            await self._wakeup.until(
                lambda: inbox.observation is not None or inbox.new_episode is not None, None
            )
            if inbox.new_episode is not None:
                await self._prepare(inbox.new_episode)
            else:
                await self.step_distributed()

    async def step_distributed(self) -> StepReport:
        """Carry the agent through one step and publish the action that happened.

        Waits for the observation until its deadline; without one the agent goes on with what it knows.

        Returns:
            What was published as the action.
        """
        await self.start()
        inbox, agent, limit_s = self._inbox, self.agent, self.deadlines.upstream_s
        missed = int(not await self._wakeup.until(lambda: inbox.observation is not None, limit_s))
        observation, episode, step = inbox.begin_step()
        if observation is not None:
            commanded = observation.commanded
            missed += not await self._wakeup.until(
                lambda: (
                    inbox.price.is_for(episode, step) and (not commanded or inbox.commands.has(episode, step))
                ),
                limit_s,
            )
        agent.observe(observation, inbox.price.value)
        agent.decide(inbox.commands.take(episode, step))
        missed += await self._negotiate(episode, step)
        missed += await self._drive_devices(observation.dt_s if observation else None, episode, step)
        report = agent.report()
        report.missed = missed
        self.deadline_misses += missed
        channel = topics.agent(agent.agent_id, "action")
        action = report.to_message()
        self._broker.publish(channel, self._outbox.stamp(channel, action, episode=episode, step=step))
        return report

    # -- phases ------------------------------------------------------------------------------------

    async def _prepare(self, begun: RunState) -> None:
        """Start an episode: reset the agent, wait for its devices, and say that it is ready."""
        inbox, run, episode = self._inbox, begun.boot, begun.episode or 0
        inbox.begin_episode(episode, run)
        self.agent.reset(episode, begun.seed)

        def absent() -> list[str]:
            return sorted(name for name, link in self._links.items() if not link.is_ready(run, episode))

        await self._wakeup.until(
            lambda: not absent() or inbox.new_episode is not None, self.deadlines.ready_s
        )
        if self._presence is None or inbox.new_episode is not None:
            return
        if missing := ", ".join(absent()):
            status = Status(state="fault", run=run, reason=f"devices not ready: {missing}")
        else:
            status = Status(state="online", run=run)
        await self._presence.update(self._stamp_status(status, episode))

    async def _negotiate(self, episode: int, step: int) -> int:
        """Run the horizontal protocol; return the number of rounds that missed their deadline."""
        session = self.agent.negotiate()
        if session is None:
            return 0
        self._inbox.open_session(session)
        missed, going = 0, True
        while going:
            for peer, message in session.outgoing().items():
                channel = topics.p2p(self.agent.agent_id, peer)
                stamped = self._outbox.stamp(channel, message, episode=episode, step=step)
                self._broker.publish(channel, stamped)
            if not await self._wakeup.until(lambda: not session.waiting_for(), self.deadlines.peer_s):
                missed += 1
                late = ", ".join(sorted(session.waiting_for()))
                log.warning("%s: no word from %s in step %d", self.agent_id, late, step)
            going = session.advance()
        self._inbox.close_session()
        return missed

    async def _drive_devices(self, dt_s: float | None, episode: int, step: int) -> int:
        """Send setpoints, take telemetry, let models stand in; return 1 if the deadline was missed."""
        sent: dict[str, DeviceLink] = {}
        for name, wanted in self.agent.wanted().items():
            link = self._links.get(name)
            if link is None:
                self.agent.simulate(name)
            elif dt_s is None:
                self.agent.simulate(name, "no observation, so nothing was sent")
            else:
                link.send(wanted, self._outbox, dt_s=dt_s, episode=episode, step=step)
                sent[name] = link
        in_time = await self._wakeup.until(
            lambda: all(link.answer() is not None for link in sent.values()), self.deadlines.device_s
        )
        for name, link in sent.items():
            telemetry = link.answer()
            if telemetry is not None:
                self.agent.measured(name, telemetry)
            else:
                self.agent.simulate(name, "no telemetry before the deadline")
                log.warning("%s: device %s did not answer in step %d", self.agent_id, name, step)
        return int(not in_time)

    def _stamp_status(self, status: Status, episode: int | None = None) -> Json:
        return self._outbox.stamp(topics.agent(self.agent.agent_id, "status"), status, episode=episode)
