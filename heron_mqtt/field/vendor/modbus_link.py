"""A vendor's device by its registers: they are read in turn, and written for setpoints and releases."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Self

from heron_mqtt.cancellation import end_tasks
from heron_mqtt.field.modbus.blocks import ReadBlock
from heron_mqtt.field.modbus.registers import BUSY, ModbusFault, Registers
from heron_mqtt.field.steady_clock import steady_s
from heron_mqtt.field.vendor.cleaning_keys import Scalar
from heron_mqtt.field.vendor.device_mapping import DeviceMapping
from heron_mqtt.field.vendor.link import NotTaken, OnPoll, OnRawMessage, RegisterPoll
from heron_mqtt.field.vendor.outgoing import DeviceCommand, RegisterCommand
from heron_mqtt.field.vendor.register_map import PollGroup, RegisterMap, RegisterWrite

log = logging.getLogger("heron_mqtt.vendor")

SILENT_PAUSE_S = 1.0  # shortest time between two tries to reach a device that does not answer
LOST_AFTER = 2  # so many unanswered requests on end, and it is not there; one may be swallowed
BUSY_PAUSE_S = 0.25
SHOWN_WITHIN_S, LOOK_AGAIN_S = 0.3, 0.1  # for registers to show a release that was acknowledged

RegisterPlace = tuple[str, int]
"""Area and address of a register."""


class ModbusLink:
    """Reads the registers of one unit in turn while inside, and writes them in the order it is told.

    - What is read equally often goes in as few requests as the mapping allows. An exception harms only what
      is in its request; after a request without an answer the others of that turn are not tried.
    - A write that is refused ends its message: what follows in it is not written. A device that is busy is
      asked again until the message is too old.
    - A release is read back. It counts as refused, although the device acknowledged it, if the registers
      still contain the values of a setpoint. The same holds for a word that every setpoint writes (such as a
      mode that an earlier program left). Registers with any other content, or that cannot be read, prove
      nothing: a command may read back differently.
    - A device that is away is asked again with each turn, once a second at most.

    Args:
        registers: Of the unit; the connection may be shared, and is not closed here.
        mapping: Of a device on Modbus.
        everything: Read all registers, also those that are only written: to show them.
        monotonic: By which it is said when something was read, s: that of the device it is read for.
    """

    def __init__(
        self,
        registers: Registers,
        mapping: DeviceMapping,
        *,
        everything: bool = False,
        monotonic: Callable[[], float] = steady_s,
    ) -> None:
        assert mapping.registers is not None
        self._registers = registers
        self._monotonic = monotonic
        self._map: RegisterMap = mapping.registers
        self._names = None if everything else mapping.polled
        self._listeners: list[OnPoll] = []
        self._on_return: list[Callable[[], None]] = []
        self._writing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_wanted = asyncio.Event()  # what is read, before it is due
        self._unanswered = LOST_AFTER  # until the first answer it is not there
        self._set_to: dict[RegisterPlace, int] = {}  # by setpoints, until a release has shown
        self._unproven: dict[tuple[RegisterPlace, ...], str] = {}  # of the last release, by what was written
        self._connections: int | None = None  # that we have told of; None = it has not answered yet
        self.peer = f"the device at {registers.address}"

    async def __aenter__(self) -> Self:
        """Begin to read; a device that is not there yet is waited for."""
        self._keep(self._poll(), "registers")
        return self

    async def __aexit__(self, *_: object) -> None:
        """End reading; what is being written is broken off."""
        await end_tasks(self._tasks)

    @property
    def connected(self) -> bool:
        """Whether it answers."""
        return self._unanswered < LOST_AFTER

    @property
    def connects_to_send(self) -> bool:
        """Whether a message connects: each request does where there is no connection."""
        return True

    @property
    def unproven(self) -> str | None:
        """Why nothing but its answer proves that the device has taken its last release; for people.

        None = its registers show it, or it was not released since the last setpoint.
        """
        return next(iter(self._unproven.values()), None)

    def look_now(self) -> None:
        """Read every group at once; what is read just now counts."""
        self._is_wanted.set()

    def listen(
        self, topics: tuple[str, ...], heard: OnRawMessage, polled: OnPoll
    ) -> list[Callable[[], None]]:
        """Call back after each turn of reading."""
        self._listeners.append(polled)
        return [lambda: self._listeners.remove(polled)]

    def on_return(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back when it answers again, or over a new connection: it may have been started again."""
        self._on_return.append(callback)
        return lambda: self._on_return.remove(callback)

    def send(self, message: DeviceCommand, *, not_after: float) -> asyncio.Future[None]:
        """Write registers; see ``VendorLink``."""
        assert isinstance(message, RegisterCommand)
        return self._keep(self._write(message, not_after), "writing registers")

    def _keep(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=f"{name} {self._registers.address}")
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the sender gets it; one that ignores it is not warned

    # -- reading -----------------------------------------------------------------------------------

    async def _poll(self) -> None:
        loop = asyncio.get_running_loop()
        due = {group: loop.time() for group in self._map.groups(self._names)}
        blocks = {group: self._map.blocks(group.names) for group in due}
        while due:
            group = min(due, key=lambda g: due[g])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due[group]):
                    await self._is_wanted.wait()
                    self._is_wanted.clear()
                    # Those that were due earlier come first, however often it is wanted.
                    due = {group: min(at, loop.time()) for group, at in due.items()}
                    continue
            begun = loop.time()
            poll = await self.read(group, blocks[group])
            for listener in tuple(self._listeners):
                try:
                    listener(poll)
                except Exception:
                    log.exception("%s: the values that were read could not be used", self._registers.address)
            pause_s = group.period_s if self.connected else max(group.period_s, SILENT_PAUSE_S)
            due[group] = max(begun + pause_s, loop.time())

    async def read(self, group: PollGroup, blocks: list[ReadBlock]) -> RegisterPoll:
        """Return what the registers of a group hold now."""
        begun_s = self._monotonic()
        values: dict[str, Scalar | None] = {}
        shown: dict[str, str] = {}
        unread: dict[str, tuple[str, ...]] = {}
        silence: str | None = None
        for block in blocks:
            names = tuple(span.name for span in block.spans)
            if silence is None:
                try:
                    words = await self._registers.read(block.address, block.count, block.area)
                except ModbusFault as exc:
                    why = str(exc)
                    silence = why if exc.code is None else None
                    self._note(answered=exc.code is not None)
                else:
                    self._note(answered=True)
                    for span in block.spans:
                        register = self._map.registers[span.name]
                        part = words[span.address - block.address : span.end - block.address]
                        values[span.name], shown[span.name] = register.value(part), register.shown(part)
                    continue
            else:
                why = silence
            unread[why] = (*unread.get(why, ()), *names)
        return RegisterPoll(group.source, begun_s, values, shown, unread)

    def _note(self, *, answered: bool) -> None:
        """Take note of an answer, or of none; tell if the device was away meanwhile."""
        if not answered:
            self._unanswered += 1
            return
        before, self._connections = self._connections, self._registers.connections
        was_away = before is not None and (self._unanswered > 0 or before != self._connections)
        self._unanswered = 0
        if was_away:
            for callback in tuple(self._on_return):
                callback()

    # -- writing -----------------------------------------------------------------------------------

    async def _write(self, command: RegisterCommand, not_after: float) -> None:
        async with self._writing:
            await self._put_all(command, not_after)
            if not command.releases:
                self._set_to |= dict(_places(command))
                self._unproven.clear()
            if command.read_back:
                for write in command.writes:
                    await self._compare(write)
            if command.releases:
                await self._require_released(command)

    async def _put_all(self, command: RegisterCommand, not_after: float) -> None:
        """Write what is to be written.

        Raises:
            NotTaken: The device has refused something, or not answered; in part, if it may hold some of it.
        """
        refusal: NotTaken | None = None
        for i, write in enumerate(command.writes):
            try:
                await self._put(write, not_after)
            except NotTaken as exc:
                may_have_it = not exc.was_heard and len(command.writes) > 1
                exc.in_part = i > 0 or may_have_it
                if not (command.goes_on and exc.was_heard):
                    raise
                refusal = refusal or exc
        if refusal is not None:
            raise refusal

    async def _put(self, write: RegisterWrite, not_after: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if loop.time() > not_after:
                raise NotTaken(
                    f"{', '.join(write.names)}: not written in time: the device, or what leads to it, is busy"
                )
            try:
                await self._put_once(write)
                return
            except ModbusFault as exc:
                self._note(answered=exc.code is not None)
                if exc.code != BUSY:
                    was_heard = exc.code is not None
                    raise NotTaken(f"{', '.join(write.names)}: {exc}", was_heard=was_heard) from None
            await asyncio.sleep(BUSY_PAUSE_S)

    async def _put_once(self, write: RegisterWrite) -> None:
        if write.area == "coil":
            await self._registers.write_coil(write.address, bool(write.words[0]))
        else:
            await self._registers.write(write.address, write.words, single=write.single)
        self._note(answered=True)

    async def _require_released(self, command: RegisterCommand) -> None:
        """Look whether a release has ended what setpoints have written; it may take a moment to show.

        Raises:
            NotTaken: It stands there still.
        """
        places = tuple(place for place, _ in _places(command))
        still, unproven = "", "its registers were not read in time"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SHOWN_WITHIN_S):
                while True:
                    still, unproven = await self._compare_release(command)
                    if not still:
                        break
                    await asyncio.sleep(LOOK_AGAIN_S)
        if still:
            raise NotTaken(f"it has acknowledged its release, but {still}")
        self._unproven.pop(places, None)
        if unproven:
            self._unproven[places] = unproven
        for place in places:
            self._set_to.pop(place, None)

    async def _compare_release(self, command: RegisterCommand) -> tuple[str, str]:
        """Return what of a setpoint its registers hold still, and what they hold that was not written.

        For people; "" = nothing.
        """
        unproven = ""
        for write in command.writes:
            names = ", ".join(write.names)
            try:
                words = await self._registers.read(write.address, len(write.words), write.area)
            except ModbusFault as exc:
                self._note(answered=exc.code is not None)
                return "", f"{names}: cannot be read back: {exc}"
            self._note(answered=True)
            if tuple(words) == write.words:
                continue
            unproven = f"{names}: the device holds {_hex(words)} where {_hex(write.words)} was written"
            for i, word in enumerate(words):
                place = (write.area, write.address + i)
                is_of_setpoint = word == self._set_to.get(place) or (*place, word) in command.undoes
                if word != write.words[i] and is_of_setpoint:
                    return f"{unproven}, as before", unproven
        return "", unproven

    async def _compare(self, write: RegisterWrite) -> None:
        """Read what was written.

        Raises:
            NotTaken: It is something else.
        """
        try:
            words = await self._registers.read(write.address, len(write.words), write.area)
        except ModbusFault as exc:
            self._note(answered=exc.code is not None)
            raise NotTaken(f"{', '.join(write.names)}: cannot be read back: {exc}") from None
        if tuple(words) != write.words:
            held = f"the device holds {_hex(words)} where {_hex(write.words)} was written"
            raise NotTaken(f"{', '.join(write.names)}: {held}", in_part=True)


def _hex(words: Sequence[int]) -> str:
    return " ".join(f"{word:04x}" for word in words)


def _places(command: RegisterCommand) -> list[tuple[RegisterPlace, int]]:
    """Return each register that is written, with its word."""
    return [((w.area, w.address + i), word) for w in command.writes for i, word in enumerate(w.words)]
