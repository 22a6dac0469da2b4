"""Proxy: one agent's message relay. It carries the agent's messages and never decides for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence

from heron_mqtt.agents.base import Agent, StepReport, each_simulated
from heron_mqtt.agents.deadlines import Deadlines
from heron_mqtt.agents.inbox import Inbox
from heron_mqtt.agents.wakeup import Wakeup
from heron_mqtt.end_times import LET_GO_S, SELDOM_S
from heron_mqtt.errors import BrokerClosed, BrokerError, Displaced
from heron_mqtt.field.gateway import FieldGateway
from heron_mqtt.field.gateway.clearance import make_plan
from heron_mqtt.field.gateway.device_link import SetpointRequest
from heron_mqtt.field.gateway.gateway import NOT_HANDED_BACK
from heron_mqtt.field.gateway.settings import DeviceSettings
from heron_mqtt.field.gateway.succession import Succession
from heron_mqtt.field.observer import NO_OBSERVER, GatewayObserver, observed
from heron_mqtt.json_object import Json
from heron_mqtt.messages import RunState, Status
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import Announcement, MessageBroker
from heron_mqtt.messaging.core.background_loop import current_loop
from heron_mqtt.messaging.ownership import NameOwnership
from heron_mqtt.messaging.presence_guard import PresenceGuard
from heron_mqtt.messaging.stamping import MessageStamper

log = logging.getLogger("heron_mqtt.proxy")

RELEASES = 3  # while devices are waited for to show that they were let go
READY_SHARE = 0.9  # of ready_s: what lacks must be said before the environment gives up


class Proxy:
    """Carries one agent's messages: price, observation and command in, peers, devices, action out.

    Messages of another environment, episode or step than the current one are ignored and counted
    (``dropped``). A phase that reaches its deadline continues without the late messages; the action contains
    the number of such phases.

    Args:
        agent_id: The proxy's own name, for logs; channels contain the agent's id.
        actual_agent: The agent, usually a ``powergrid.agents.GridAgent``.
        broker: Carries the messages; the proxy does not close it.
        upstream_id: The operator whose price it follows.
        peers: Agents whose messages it accepts in the horizontal protocol; None = those that the agent names.
        devices: Settings of the devices that can be reached over the broker; others are simulated.
        asks_clearance: Have each step's setpoints checked upstream before they are sent.
        env_id: The environment it belongs to.
        deadlines: Bounds on every wait.
        lease_s: How long a setpoint holds on a device without a newer one, wall-clock s.
        take_over: Displace another proxy of this agent, and the holder of its devices.
        succession: Its earlier starts, whose leases it continues; not closed here. None = none are known.
        stamper: Stamps what is published; handed in by tests.
    """

    def __init__(
        self,
        agent_id: str,
        actual_agent: Agent,
        broker: MessageBroker,
        upstream_id: str = "system_operator",
        *,
        peers: Sequence[str] | None = None,
        devices: Mapping[str, DeviceSettings] | None = None,
        asks_clearance: bool = False,
        env_id: str = "default",
        deadlines: Deadlines | None = None,
        lease_s: float = 30.0,
        take_over: bool = False,
        succession: Succession | None = None,
        stamper: MessageStamper | None = None,
    ) -> None:
        self.agent_id = agent_id
        self.agent = actual_agent
        self.deadlines = deadlines or Deadlines()
        self.deadline_misses = 0
        self.observer: GatewayObserver = NO_OBSERVER
        """Told of each step of the devices; see ``heron_mqtt.field.observer``."""
        mine = actual_agent.agent_id
        self._simulate_each = each_simulated(actual_agent)
        self._broker = broker
        self._stamper = stamper or MessageStamper(mine, env_id)
        self._wakeup = Wakeup()
        peers = actual_agent.peers if peers is None else peers
        self._asks_clearance = asks_clearance
        limits = {name: actual_agent.limits(name) for name in devices or {}}
        self.gateway = FieldGateway(
            mine,
            actual_agent,
            devices or {},
            {name: (limit.p_min_mw, limit.p_max_mw) for name, limit in limits.items()},
            broker,
            self._stamper,
            notify=self._on_gateway,
            lease_s=lease_s,
            take_over=take_over,
            predecessors=frozenset() if succession is None else succession.predecessors,
        )
        self._succession = succession
        self._inbox = Inbox(mine, upstream_id, peers, env_id, broker, self._wakeup, self.gateway.environment)
        self._ownership = NameOwnership(
            broker,
            topics.agent(mine, "owner"),
            self._stamper,
            what=f"agent {mine} in environment {env_id!r}",
            on_displaced=self._on_displaced,
            take_over=take_over,
        )
        self._is_displaced = self._is_closed = False
        self._home: asyncio.AbstractEventLoop | None = None
        self._presence: Announcement | None = None
        self._said: tuple[Status, int] | None = None  # of the last episode, and which that is
        self._resumed: tuple[int, Callable[[], None]] | None = None
        self._telling: asyncio.Task[None] | None = None
        self._guard = PresenceGuard(broker, topics.agent(mine, "status"), self._stamper.boot)

    @property
    def dropped(self) -> int:
        """Messages ignored: of another environment, episode or step, or from a stranger."""
        return self._inbox.dropped

    # -- life --------------------------------------------------------------------------------------

    def resume(self, episode: int, put_back: Callable[[], None]) -> None:
        """Let the agent go on within an episode, before upstream says that it begins.

        Args:
            episode: Which.
            put_back: Puts the agent where it was; called whenever that episode has reset it. Models of real
                devices are then put where these say that they are.
        """
        self._resumed = episode, put_back

    async def start(self) -> None:
        """Subscribe and say ``online``. Idempotent; ``step_distributed`` and ``run`` call it.

        Raises:
            NameTaken: Another proxy speaks for this agent; nothing was sent.
        """
        if self._presence is not None:
            return
        self._home = asyncio.get_running_loop()
        try:
            await self.gateway.open()
            await self._inbox.open()
            await self._ownership.acquire()  # what the broker kept on any of these has come by now
            if self._succession is not None:
                self._succession.begin(self._stamper.boot)
            self.gateway.begin()
            self._presence = await self._broker.announce(
                topics.agent(self.agent.agent_id, "status"),
                self._stamper.presence(Status(state="online")),
                self._stamper.will(Status(state="offline")),
            )
            await self._guard.watch(self._presence)
        except BaseException:  # a later start must not listen twice
            await self.close()
            raise

    async def close(self) -> None:
        """Release the devices, say ``offline`` and unsubscribe. Idempotent.

        Waits up to ``LET_GO_S`` for the devices to show that they were let go, and up to ``SELDOM_S`` for one
        that measures so seldom; ``gateway.unreturned`` says afterwards which did not.
        """
        self._inbox.close()
        try:
            if not self._is_closed:
                self._is_closed = True
                with contextlib.suppress(Displaced):  # meanwhile: the devices are its successor's
                    await self._hand_back()
        finally:
            self.gateway.close()
            self._guard.close()
        presence, self._presence = self._presence, None
        with contextlib.suppress(BrokerClosed):  # what closed it has ended our presence
            if presence is not None:
                await presence.withdraw()
            await self._ownership.release()

    @property
    def let_go_s(self) -> float:
        """How long ``close`` waits for the devices that were driven and do not show their release yet, s."""
        return max(LET_GO_S, min(self.gateway.shows_within_s(), SELDOM_S))

    async def _hand_back(self) -> None:
        """Release the devices, and give them a moment to show it; those of a successor are its own."""
        gateway = self.gateway
        gateway.begin_end()
        is_heard = self._broker.connected and self._home is asyncio.get_running_loop()
        if self._is_displaced or not is_heard:
            return
        for _ in range(RELEASES):
            if await self._wakeup.until(gateway.is_handed_back, LET_GO_S / RELEASES):
                return
            await gateway.hear_leases()
            gateway.release_again()
        if await self._wakeup.until(gateway.is_handed_back, self.let_go_s - LET_GO_S):
            return
        for name, left in gateway.unreturned().items():
            log.error("%s/%s: %s: %s", self.agent.agent_id, name, NOT_HANDED_BACK, left.why)

    def _on_displaced(self, error: Displaced) -> None:
        """Obey at once: another proxy speaks for the agent and drives its devices."""
        self._is_displaced = True
        self.gateway.abandon()
        self._guard.close()
        if self._presence is not None:
            self._presence.disown()
        self._wakeup.fail(error)

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
        if self._presence is None:
            await self.start()
        inbox, agent, limit_s = self._inbox, self.agent, self.deadlines.upstream_s
        missed = 0
        if inbox.observation is None:  # ``run`` begins a step with one
            missed += not await self._wakeup.until(lambda: inbox.observation is not None, limit_s)
        observation, episode, step = inbox.begin_step()
        if observation is not None:
            commanded = observation.commanded
            if not inbox.is_told(episode, step, commanded):
                missed += not await self._wakeup.until(
                    lambda: inbox.is_told(episode, step, commanded), limit_s
                )
        agent.observe(observation, inbox.price.value)
        agent.decide(inbox.commands.take(episode, step))
        missed += await self._negotiate(episode, step)
        devices = agent.conclude()
        if not self._asks_clearance and self.gateway.skip_simulated(episode, step):
            self._simulate_each(devices)  # models know their limits, and nothing else bounds them
            report = agent.report()
        else:
            missed += await self._drive_devices(observation.dt_s if observation else None, episode, step)
            report = agent.report()
            report.bounds = self.gateway.reasons()
            report.residuals = self.gateway.residuals()
            report.authority = self.gateway.levels()
        report.missed = missed
        self.deadline_misses += missed
        channel = topics.agent(agent.agent_id, "action")
        action = report.to_fields()
        self._broker.publish(channel, self._stamper.stamp(channel, action, episode=episode, step=step))
        self.observer.on_report(agent.agent_id, episode, step, report)
        return report

    # -- phases ------------------------------------------------------------------------------------

    async def _prepare(self, begun: RunState) -> None:
        """Start an episode: reset the agent, wait for its devices, and say that it is ready."""
        inbox, run, episode = self._inbox, begun.boot, begun.episode
        assert episode is not None, "the inbox lets no other begin"
        inbox.begin_episode(episode, run)
        self.agent.reset(episode, begun.seed)
        if self._resumed is not None and self._resumed[0] == episode:
            self._resumed[1]()

        def is_settled() -> bool:
            return inbox.new_episode is not None or self.gateway.is_complete(run, episode)

        if absent := self.gateway.absent(run, episode):
            log.info("%s waits for %s", self.agent_id, "; ".join(absent))
        await self._wakeup.until(is_settled, self.deadlines.ready_s * READY_SHARE)
        if self._presence is None or inbox.new_episode is not None:
            return
        mine, missing = self.agent.agent_id, []
        for name, why in self.gateway.lacks(run, episode).items():
            if self.gateway.can_begin_in_shadow(name):
                self._broker.stats.report("device", f"{mine}/{name}", f"begins in shadow: {why}")
            else:
                missing.append(f"{mine}/{name} ({why})")
        self.gateway.begin_episode()
        stopped = True if self.gateway.estop is not None else None
        if missing:
            reason = f"devices not ready: {', '.join(missing)}"[:500]
            status = Status(state="fault", run=run, reason=reason, stopped=stopped)
        else:
            status = Status(state="online", run=run, stopped=stopped)
        self._said = status, episode
        await self._presence.update(self._stamper.presence(status, episode=episode))

    def _on_gateway(self) -> None:
        """Something has changed at the gateway: have conditions looked at, and say of a stop what holds."""
        self._wakeup.notify()
        stopped = True if self.gateway.estop is not None else None
        if self._presence is None or self._said is None:
            return
        status, episode = self._said
        if status.stopped == stopped:
            return
        status = status.model_copy(update={"stopped": stopped})
        self._said = status, episode
        told = self._stamper.presence(status, episode=episode)
        loop = asyncio.get_running_loop()
        self._telling = loop.create_task(self._tell(self._presence, told), name=f"status of {self.agent_id}")

    async def _tell(self, presence: Announcement, told: Json) -> None:
        with contextlib.suppress(BrokerError):  # where the broker is away, the next episode says it
            await presence.update(told)

    async def _negotiate(self, episode: int, step: int) -> int:
        """Run the horizontal protocol; return the number of rounds that missed their deadline.

        Deadlines count from the beginning: an agent that lost a round to one silent peer is still in time for
        the next round of the others, who have been waiting for it since that round began for them.
        """
        session = self.agent.negotiate()
        if session is None:
            return 0
        self._inbox.open_session(session)
        missed, going = 0, True
        mine, stamp, publish = self.agent.agent_id, self._stamper.stamp, self._broker.publish
        clock, round_s = current_loop().time, self.deadlines.peer_s
        ends = clock()
        while going:
            ends += round_s
            for peer, message in session.outgoing().items():
                channel = topics.p2p(mine, peer)
                publish(channel, stamp(channel, message, episode=episode, step=step))
            # often all have come already: then no wait is made
            if session.waiting_for() and not await self._wakeup.until(
                lambda: not session.waiting_for(), ends - clock()
            ):
                missed += 1
                late = ", ".join(sorted(session.waiting_for()))
                log.warning("%s: no message from %s in step %d", self.agent_id, late, step)
            going = session.advance()
        self._inbox.close_session()
        return missed

    async def _drive_devices(self, dt_s: float | None, episode: int, step: int) -> int:
        """Send what may be sent, take what came back; return how many deadlines were missed."""
        gateway, agent, missed = self.gateway, self.agent, 0
        wanted = agent.wanted()
        allowed = gateway.clamp_setpoints(wanted)
        self.observer.on_bounded(agent.agent_id, wanted, allowed)
        if self._asks_clearance and dt_s is not None:
            missed += await self._clear(allowed, episode, step)
        await gateway.environment.caught_up()
        gateway.send(allowed, dt_s=dt_s, episode=episode, step=step)
        await self._wakeup.until(gateway.answered, self.deadlines.device_s)
        missed += gateway.settle(allowed)
        if self.observer is not NO_OBSERVER:
            self.observer.on_settled(agent.agent_id, episode, step, allowed, observed(gateway))
        return missed

    async def _clear(self, allowed: dict[str, SetpointRequest], episode: int, step: int) -> int:
        """Have the plan checked upstream together with all others; without an answer it becomes 0.

        With a stop in force nothing is waited for: nothing but 0 is sent, whatever is cleared.
        """
        mine, inbox = self.agent.agent_id, self._inbox
        channel = topics.agent(mine, "plan")
        plan = make_plan(allowed)
        self._broker.publish(channel, self._stamper.stamp(channel, plan, episode=episode, step=step))
        in_time = await self._wakeup.until(
            lambda: inbox.clearance_for(episode, step) is not None or self.gateway.estop is not None,
            self.deadlines.clearance_s,
        )
        if self.gateway.estop is not None:
            return 0
        self.gateway.clear(allowed, inbox.clearance_for(episode, step))
        return int(not in_time)
