"""The exceptions that this project raises on purpose and that reach its users::

    HeronError
    |-- ConfigError              a scenario, an argument or an input file is wrong (exit code 2)
    |   `-- DataError            a time series or credentials file: says file, row and column
    |-- BrokerError              a broker could not do what it promises
    |   |-- BrokerUnavailable    no answer at the address, or the answer is not MQTT
    |   |-- BrokerRefused        the broker answered and said no: credentials, protocol version, ACL
    |   |-- BrokerClosed         used after close()
    |   |-- AddressInUse         the port to listen on is taken
    |   |-- BrokerOverflow       a bounded queue is full and the message was not accepted
    |   |-- MessageExpired       published with not_after, and not sent by then, or not connected
    |   `-- UnsupportedFeature   this broker cannot carry that (wildcards on a two-method broker, ...)
    |-- MessageError             a payload is not JSON, not the right model, or too large
    |-- NotReady                 a remote agent or a device did not appear within its time
    |-- NameTaken                another process holds this environment, agent or device
    |   `-- Displaced            another process has taken it over: this one has stopped (exit code 3)
    |-- PlaceTaken               another environment drives this device, by a program on this machine
    |-- NotHandedBack            a device may keep its last setpoint: its program could not release it
    |-- ModelFailed              a device's model could not take a step: a functional mock-up unit says why
    `-- PowerFlowError
        |-- PowerFlowDiverged    no solution was found; says why; results of that step are NaN
        `-- UnsupportedElement   the compiled power flow cannot represent an element exactly

Errors that are caught before they reach a user are defined in the module that raises them. They are also
``HeronError``: ``NotSent`` and ``NotTaken`` (a vendor's device did not get, or did not accept, a setpoint).
``ModbusFault`` and ``SunSpecError``: a device does not answer, or answers wrongly. ``NotAsAsked``: a gateway
grants a request, but reports that something else is in force.

A user's mistake ends in one of these, with one line that states what is wrong, where, what was expected and
what to do. The command line prints that line and no traceback. Anything else that escapes is a bug and keeps
its traceback.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AddressInUse",
    "BrokerClosed",
    "BrokerError",
    "BrokerOverflow",
    "BrokerRefused",
    "BrokerUnavailable",
    "ConfigError",
    "DataError",
    "Displaced",
    "HeronError",
    "MessageError",
    "MessageExpired",
    "ModelFailed",
    "NameTaken",
    "NotHandedBack",
    "NotReady",
    "PlaceTaken",
    "PowerFlowDiverged",
    "PowerFlowError",
    "UnsupportedElement",
    "UnsupportedFeature",
]


class HeronError(Exception):
    """Base of every error raised on purpose."""

    exit_code: ClassVar[int] = 1
    """Exit code of our programs that end with this error."""


def told_at_the_end(error: HeronError) -> tuple[list[str], int]:
    """Return the lines that a program prints when it ends with an error, and its exit code.

    A second error may occur during the cleanup after a first one (for example if a displaced program could
    not hand a device back). In Python it replaces the first one. Both are printed, the first one first, and
    the highest exit code counts.
    """
    chain: list[HeronError] = [error]
    while not chain[-1].__suppress_context__ and isinstance(chain[-1].__context__, HeronError):
        chain.append(chain[-1].__context__)
    lines: list[str] = []
    for one in reversed(chain):
        lines += one.problems if isinstance(one, ConfigError) else str(one).splitlines() or [""]
    # A text that one error only repeats from another is printed once.
    told = [line for i, line in enumerate(lines) if not any(line in later for later in lines[i + 1 :])]
    return told, max(one.exit_code for one in chain)


class ConfigError(HeronError, ValueError):
    """A scenario, an argument or an input file is wrong.

    Args:
        problems: One line each: file, key, value and what was expected.
    """

    exit_code = 2

    def __init__(self, *problems: str) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


class DataError(ConfigError):
    """A data file is wrong; each problem names file, row and column."""


class BrokerError(HeronError):
    """A broker could not do what it promises."""


class BrokerUnavailable(BrokerError, ConnectionError):
    """No answer at the broker's address, or the answer is not of an MQTT broker."""


class BrokerRefused(BrokerError):
    """The broker answered and refused: credentials, protocol version or access rights."""


class BrokerClosed(BrokerError):
    """The broker object was used after ``close()``."""


class AddressInUse(BrokerError):
    """The address to listen on is taken."""


class BrokerOverflow(BrokerError):
    """A bounded queue is full; the message was not accepted."""


class MessageExpired(BrokerError):
    """A message with a time limit (``not_after``) was dropped: too late, or there is no connection.

    It was not sent, or (where the connection was lost before the answer) not known to have arrived.
    """


class UnsupportedFeature(BrokerError, NotImplementedError):
    """This broker cannot carry what was asked; nothing was sent."""


class MessageError(HeronError, ValueError):
    """A payload is not a JSON object, does not fit its model, or is too large."""


class NotReady(HeronError, TimeoutError):
    """A remote agent or a field device did not appear within its time."""


class NameTaken(HeronError):
    """Another process holds this environment, agent or device; only one with the same name may act."""


class Displaced(NameTaken):
    """Another process was told to take the name over; this one has stopped.

    It has its own exit code, because a service manager must not restart a program that was displaced on
    purpose.
    """

    exit_code = 3


class NotHandedBack(HeronError):
    """A device could not be released at the end of its program: it may keep its last setpoint."""


class PlaceTaken(HeronError):
    """Another environment, or another device of it, drives the place by a program on this machine."""


class ModelFailed(HeronError):
    """A device's model could not take a step, or gave what cannot be; its result is not used."""


class PowerFlowError(HeronError):
    """Base of what the power flow reports."""


class PowerFlowDiverged(PowerFlowError):
    """No power-flow solution was found.

    Args:
        reason: What stopped the solver, for the record (``"no convergence after 20 iterations"``).
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class UnsupportedElement(PowerFlowError):
    """The compiled power flow cannot represent an element of this network exactly."""
