"""SystemOperator: broadcasts the price, hands out observations and commands, gathers actions, settles."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from heron_mqtt.agents.base import StepReport
from heron_mqtt.agents.wakeup import Wakeup
from heron_mqtt.end_times import LAST_MESSAGE_S
from heron_mqtt.errors import BrokerError, Displaced, NotReady
from heron_mqtt.field.emergency_stop import ALWAYS, StopRegister, told_by
from heron_mqtt.field.gateway.pause_detector import PauseDetector
from heron_mqtt.messages import (
    Action,
    Clearance,
    Command,
    EmergencyStop,
    GridResults,
    Message,
    NetworkModel,
    Observation,
    RunState,
    SetpointPlan,
    Status,
    StopConfirm,
)
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import Announcement, MessageBroker, Received
from heron_mqtt.messaging.codec import Json
from heron_mqtt.messaging.core.background_loop import current_loop
from heron_mqtt.messaging.ownership import NameOwnership
from heron_mqtt.messaging.stamping import MessageStamper, utc_text
from heron_mqtt.messaging.subscription_group import SubscriptionGroup

log = logging.getLogger("heron_mqtt.operator")

TOLD_WITHIN_S = 1.0  # what the broker has kept comes at once after a connection


class SystemOperator:
    """The upstream end of a run, as the agents see it.

    Args:
        operator_id: Its id in the price channel.
        subordinates: Agents that it sends messages to and whose actions it gathers.
        broker: Carries the messages; not closed here.
        env_id: The environment.
        scenario: Its name, for ``run/state``.
        alive_every_s: How often to repeat ``run/state`` while a step or a wait lasts, wall-clock s: at
            least three times a lease, or gateways stop renewing.
        take_over: Displace another environment of this ``env_id``.
        stamper: Stamps what is published; handed in by tests.
    """

    def __init__(
        self,
        operator_id: str,
        subordinates: Iterable[str],
        broker: MessageBroker,
        *,
        env_id: str = "default",
        scenario: str = "",
        alive_every_s: float = 10.0,
        take_over: bool = False,
        stamper: MessageStamper | None = None,
    ) -> None:
        self.operator_id = operator_id
        self.subordinates = tuple(subordinates)
        self.dropped = 0
        """Messages ignored: of another environment, episode or step, or from a stranger."""
        self.network: NetworkModel | None = None
        """Published with the first episode, and again where the broker may have forgotten it."""
        self._broker = broker
        self._env_id = env_id
        self._scenario = scenario
        self._stamper = stamper or MessageStamper(operator_id, env_id)
        self._retain = {"retain": True} if broker.features.retain else {}
        self._subscriptions = SubscriptionGroup(broker)
        self._presence: Announcement | None = None
        self._now = (0, -1)
        self._statuses: dict[str, Status] = {}
        self._offline: set[str] = set()  # subordinates that have published it, or whose wills have
        self._reports: dict[str, StepReport] = {}
        self._plans: dict[str, SetpointPlan] = {}
        self._wakeup = Wakeup()
        self._state: Json | None = None  # what run/state says of the step under way
        self._alive_every_s = alive_every_s
        self._alive_at = 0.0
        self._stop = StopRegister(env_id)
        self._interrupted_stop: EmergencyStop | None = None
        self._saying_again: asyncio.Task[None] | None = None
        self._forget_reconnect: Callable[[], None] = lambda: None
        self._displaced: Displaced | None = None
        self._pause: PauseDetector | None = None  # only where another environment may take over
        self._ownership = NameOwnership(
            broker,
            topics.RUN_OWNER,
            self._stamper,
            what=f"environment {env_id!r}",
            on_displaced=self._on_displaced,
            take_over=take_over,
        )

    @property
    def estop(self) -> EmergencyStop | None:
        """The emergency stop in force, if there is one."""
        return self._stop.stop

    def remember_stops(self, heard: Iterable[Received]) -> None:
        """Take what was heard on ``estop`` before this run was interrupted; before ``start``.

        A release counts only once: what the broker tells after the start is new only if it is none of these.
        """
        for message in heard:
            self._stop.take(message)
        self._stop.on_reconnect()
        self._interrupted_stop = self._stop.stop

    def say_remembered_stop(self) -> bool:
        """Say a stop again that was in force at the interruption; not where it was released meanwhile.

        A release without boot and seq may be older than the stop, so it does not count.

        Returns:
            Whether a stop is in force, said now or told by the broker.
        """
        stop, self._interrupted_stop = self._interrupted_stop, None
        if stop is None:
            return False
        if not self._stop.is_active:
            if self._stop.identity != (None, None):
                by = told_by(self._stop.release)
                log.warning("emergency stop released during the interruption, %s", by, extra=ALWAYS)
                return False
            self._stop.stop, self._stop.is_told = stop, False
        if not self._stop.is_told:
            self._say_stop_again()
        return True

    async def start(self) -> None:
        """Subscribe to the subordinates and take the environment's name. Idempotent.

        Raises:
            NameTaken: Another environment of this name lives; nothing was sent.
        """
        if self._subscriptions:
            return
        broker = self._broker
        self._forget_reconnect = broker.on_reconnect(self._on_reconnect)
        self._wakeup, self._displaced = Wakeup(), None  # without what ended the run before
        wanted: list[tuple[str, Callable[[Received], None]]] = []
        leaves = [("status", self._on_status), ("action", self._on_action), ("plan", self._on_plan)]
        for leaf, callback in leaves:
            if broker.features.wildcards:
                wanted.append((topics.any_agent(leaf), callback))
            else:
                wanted += [(topics.agent(agent, leaf), callback) for agent in self.subordinates]
        wanted.append((topics.ESTOP, self._on_estop))
        wanted += [(topics.stop_confirm(agent), self._on_stop_confirm) for agent in self.subordinates]
        try:
            await self._subscriptions.open(wanted)
            await self._ownership.acquire()
        except BaseException:
            self._unsubscribe()
            raise
        if broker.features.external:
            self._pause = PauseDetector.of_running_loop()
            self._pause.start()

    async def close(self) -> None:
        """Say that the run has ended, and unsubscribe. Idempotent."""
        self._unsubscribe()
        try:
            async with asyncio.timeout(LAST_MESSAGE_S):
                await self._say_finished()
                await self._ownership.release()
        except (BrokerError, TimeoutError) as exc:
            why = str(exc) or "the broker does not answer"
            log.warning("could not publish that the run is finished: %s", why)

    def _unsubscribe(self) -> None:
        self._forget_reconnect()
        if self._pause is not None:
            self._pause.stop()
            self._pause = None
        if self._saying_again is not None:
            self._saying_again.cancel()
        self._subscriptions.close()

    async def _say_finished(self) -> None:
        """End the presence; one that was displaced leaves what the other environment says."""
        presence, self._presence = self._presence, None
        if presence is None:
            return
        if self._displaced is None:
            finished = RunState(state="finished", scenario=self._scenario)
            await presence.update(self._stamper.presence(finished, episode=self._now[0]))
        await presence.withdraw(say_offline=False)

    def _on_displaced(self, error: Displaced) -> None:
        self._displaced = error
        if self._presence is not None:
            self._presence.disown()
        self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Have everyone who waits for subordinates raise: one of them has ended."""
        self._wakeup.fail(error)

    # -- messages out ------------------------------------------------------------------------------

    async def begin_episode(self, episode: int, seed: int | None, clock: datetime, timeout_s: float) -> None:
        """Tell everyone that an episode begins, and wait until all subordinates are ready for it.

        Raises:
            NotReady: Names who is missing or what it reported, or the broker does not answer any more.
        """
        self._now = (episode, -1)
        self._reports = {}
        state = RunState(state="reset", scenario=self._scenario, seed=seed, clock=clock)
        reset = self._stamper.presence(state, episode=episode)
        is_first = self._presence is None
        if self._presence is None:
            lost = self._stamper.will(RunState(state="lost", scenario=self._scenario))
            self._presence = await self._broker.announce(topics.RUN_STATE, reset, lost)
        else:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._presence.update(reset)
            except TimeoutError:
                raise NotReady(f"the broker did not take {topics.RUN_STATE} within {timeout_s:g} s") from None
        if is_first:
            self._publish_network()

        def all_ready() -> bool:
            return all(self._is_ready(agent, episode) for agent in self.subordinates)

        if not await self._wakeup.until(all_ready, timeout_s):
            raise NotReady(f"not ready after {timeout_s:g} s: {', '.join(self._not_ready(episode))}")

    def begin_step(self, episode: int, step: int, price: float, clock: datetime | str) -> None:
        """Publish where the run stands and the step's price; actions of earlier steps no longer count.

        Args:
            episode: Under way.
            step: That begins.
            price: $/MWh.
            clock: The simulated time at which it begins, UTC; or as text, which is sent as it is.
        """
        self._now = (episode, step)
        self._reports = {}
        self._plans = {}
        told = clock if isinstance(clock, str) else utc_text(clock)  # as in JSON: a text needs no decoding
        self._state = {"type": "run_state", "state": "running", "scenario": self._scenario, "clock": told}
        self.say_alive()
        self._publish(
            topics.operator_price(self.operator_id), {"type": "price", "value": price}, **self._retain
        )

    def say_alive(self) -> None:
        """Publish where the run stands: a sign of life, without which gateways stop renewing leases."""
        self._alive_at = current_loop().time()
        if self._state is not None and self._displaced is None:
            self._publish(topics.RUN_STATE, self._state, **self._retain)

    async def caught_up(self) -> None:
        """Let the loop read what came while this process stood still; at once where it did not.

        Raises:
            Displaced: Another environment has taken over meanwhile.
        """
        if self._pause is not None:
            await self._pause.caught_up()
        if self._displaced is not None:
            raise self._displaced

    async def rest(self, duration_s: float) -> None:
        """Wait between two steps, and stay alive for the gateways meanwhile.

        Raises:
            Displaced: Another environment has taken over.
        """
        await self._until(lambda: False, duration_s)

    async def _until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Wait for a condition as ``Wakeup.until`` does, and repeat ``run/state`` while that lasts."""
        clock = current_loop().time
        ends_at = clock() + timeout_s
        while True:
            due_s = self._alive_at + self._alive_every_s - clock()
            left_s = ends_at - clock()
            if left_s <= due_s:
                await self._wakeup.until(condition, left_s)
                return
            if await self._wakeup.until(condition, max(due_s, 0.0)):
                return
            await self.caught_up()
            self.say_alive()

    def command(self, agent: str, command: Command | Json) -> None:
        """Publish a command for the step under way: the message, or its fields if known to be right."""
        self._publish(topics.agent(agent, "command"), command)

    def publish_observation(self, agent: str, observation: Observation | Json) -> None:
        """Publish an agent's observation of the step under way; the agent begins the step with it.

        Args:
            agent: One of the subordinates.
            observation: The message, or its fields where they are known to be right.
        """
        self._publish(topics.agent(agent, "observation"), observation)

    inform = publish_observation
    """The former name, which stays."""

    def publish_results(self, results: GridResults | Json) -> None:
        """Publish what the power flow gave for the step under way: the message, or its fields."""
        self._publish(topics.RUN_GRID, results, **self._retain)

    def _publish_network(self) -> None:
        if self.network is not None and self._displaced is None:
            channel = topics.RUN_NETWORK
            message = self._stamper.stamp(channel, self.network, episode=self._now[0])
            self._broker.publish(channel, message, **self._retain)

    def clear(self, agent: str, clearance: Clearance) -> None:
        """Publish what may be sent of an agent's plan."""
        self._publish(topics.agent(agent, "clearance"), clearance)

    def _publish(self, channel: str, message: Message | Json, **options: bool) -> None:
        episode, step = self._now
        self._broker.publish(
            channel, self._stamper.stamp(channel, message, episode=episode, step=step), **options
        )

    # -- messages in -------------------------------------------------------------------------------

    async def gather(self, timeout_s: float) -> Mapping[str, StepReport]:
        """Return the actions of the step under way: all of them, or those that came before the deadline.

        An agent that has said ``offline``, or whose will has, is not waited for.
        """
        await self._until(lambda: self._none_missing(self._reports), timeout_s)
        self._log_missing("action", self._reports, timeout_s)
        return self._reports

    async def gather_plans(self, timeout_s: float) -> Mapping[str, SetpointPlan]:
        """Return the plans of the step under way: all of them, or those that came before the deadline."""
        await self._until(lambda: self._none_missing(self._plans), timeout_s)
        self._log_missing("plan", self._plans, timeout_s)
        return self._plans

    def _none_missing(self, heard: Mapping[str, object]) -> bool:
        """Whether every agent present has sent; checked at every message, so most checks only count."""
        if len(heard) == len(self.subordinates):
            return True
        if len(heard) + len(self._offline) < len(self.subordinates):
            return False
        return self._offline.issuperset(agent for agent in self.subordinates if agent not in heard)

    def _log_missing(self, what: str, heard: Mapping[str, object], timeout_s: float) -> None:
        for agent in self.subordinates:
            if agent not in heard:
                why = "it is offline" if agent in self._offline else f"none within {timeout_s:.3g} s"
                log.warning("no %s from %s in step %d: %s", what, agent, self._now[1], why)

    def _on_plan(self, message: Received) -> None:
        plan = self._broker.parsed(message, SetpointPlan)
        if plan is None:
            return
        agent = topics.owner_of(message.channel)
        is_now = (plan.episode, plan.step) == self._now and plan.env_id == self._env_id
        if not is_now or agent not in self.subordinates or agent in self._plans:
            self.dropped += 1
            return
        self._plans[agent] = plan
        self._wakeup.notify()

    def _on_action(self, message: Received) -> None:
        action = self._broker.parsed(message, Action)
        if action is None:
            return
        agent = topics.owner_of(message.channel)
        said = action.__dict__  # it takes as long to read as one field of the model
        is_now = (said["episode"], said["step"]) == self._now and said["env_id"] == self._env_id
        if not is_now or agent not in self.subordinates or agent in self._reports:
            self.dropped += 1
            return
        self._reports[agent] = StepReport.from_message(action)
        self._wakeup.notify()

    def _on_status(self, message: Received) -> None:
        status = self._broker.parsed(message, Status)
        if status is None:
            return
        agent = topics.owner_of(message.channel)
        if agent not in self.subordinates or status.env_id not in {None, self._env_id}:
            self.dropped += 1
            return
        before = self._statuses.get(agent)
        boots = {status.boot, None if before is None else before.boot}
        if status.state == "offline" and None not in boots and len(boots) > 1:
            return  # the will of an earlier program comes late: its connection was lost without its end
        self._statuses[agent] = status
        if status.state == "offline":
            self._offline.add(agent)
        else:
            self._offline.discard(agent)
        if status.stopped:
            self._hear_of_stop(agent)
        self._wakeup.notify()

    # -- the emergency stop --------------------------------------------------------------------------

    def _on_estop(self, message: Received) -> None:
        if self._stop.take(message) == "released":
            log.warning("emergency stop released %s", told_by(self._stop.release), extra=ALWAYS)
        # What the broker keeps now may be the release of an earlier stop, or nothing: an empty message is a
        # stop and removes the one that was kept. Those that connect later must hear of it.
        if self._stop.is_active and (not self._stop.is_told or message.get("active") is not True):
            self._say_stop_again()

    def _on_stop_confirm(self, message: Received) -> None:
        told = self._broker.parsed(message, StopConfirm)
        if told is not None and told.active:
            self._hear_of_stop(topics.levels(message.channel)[2])

    def _hear_of_stop(self, agent: str) -> None:
        """Say a stop again of which an agent knows and the broker does not."""
        if self._stop.take_report(agent) == "stopped":
            self._say_stop_again()

    def _on_reconnect(self) -> None:
        """Look whether the broker still knows of a stop that we know of."""
        self._publish_network()
        self._stop.on_reconnect()
        if self._stop.is_active and (self._saying_again is None or self._saying_again.done()):
            loop = asyncio.get_running_loop()
            self._saying_again = loop.create_task(self._check_stop(), name="say the stop again")

    async def _check_stop(self) -> None:
        await asyncio.sleep(TOLD_WITHIN_S)
        if self._stop.is_active and not self._stop.is_told:
            self._say_stop_again()

    def _say_stop_again(self) -> None:
        stop = self._stop.stop
        assert stop is not None
        log.warning("the broker has lost the emergency stop %s; publishing it again", told_by(stop))
        again = EmergencyStop(active=True, who=stop.who, why=stop.why)
        self._broker.publish(topics.ESTOP, self._stamper.stamp(topics.ESTOP, again), **self._retain)

    def _is_in_episode(self, agent: str, episode: int) -> bool:
        status = self._statuses.get(agent)
        return status is not None and (status.run, status.episode) == (self._stamper.boot, episode)

    def _is_ready(self, agent: str, episode: int) -> bool:
        return self._is_in_episode(agent, episode) and self._statuses[agent].state == "online"

    def _not_ready(self, episode: int) -> list[str]:
        """Return who is not ready for an episode, each with what is known of it."""
        missing = []
        for agent in self.subordinates:
            if not self._is_in_episode(agent, episode):
                missing.append(f"agent {agent} (not online for this episode)")
            elif not self._is_ready(agent, episode):
                status = self._statuses[agent]
                missing.append(f"agent {agent} ({status.state}: {status.reason})")
        return missing
