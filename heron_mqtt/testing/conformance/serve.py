"""Serves a class derived from ``FieldDevice`` as a program: its arguments are CLASS URL ENV AGENT NAME."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from pathlib import Path

from heron_mqtt.end_signals import AskedToEnd, exit_code, run_until_told
from heron_mqtt.errors import ConfigError, HeronError, told_at_the_end
from heron_mqtt.field.device import FieldDevice
from heron_mqtt.field.device.presence import leaving_others_alone
from heron_mqtt.field.device.private_names import refuse_taken_names
from heron_mqtt.input_files import is_file
from heron_mqtt.messages import Status
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.schemes import open_broker
from heron_mqtt.messaging.stamping import MessageStamper


def serving_command(class_name: str) -> list[str]:
    """Return the command line that serves a class, with placeholders for broker and names."""
    where = "heron_mqtt.testing.conformance.serve"
    quiet = "ignore::RuntimeWarning:runpy"  # the package has imported this module already
    return [sys.executable, "-W", quiet, "-m", where, class_name, "{broker}", "{env}", "{agent}", "{device}"]


def serving_environment() -> dict[str, str]:
    """Return the environment in which that program imports what this process can import.

    pytest adds the folders of the tests to the path; the current folder need not be one of them.
    """
    return {"PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder)}


def device_class(name: str) -> type[FieldDevice]:
    """Return the class that ``MODULE:CLASS`` or ``FILE.py:CLASS`` names.

    Raises:
        ConfigError: There is none, or it is no ``FieldDevice`` that can be made.
    """
    where, _, what = name.rpartition(":")
    if not where or not what.isidentifier():
        raise ConfigError(f"--class {name}: expected MODULE:CLASS or FILE.py:CLASS")
    path = Path(where)
    if where.endswith(".py"):
        if not is_file(path):
            raise ConfigError(f"--class {name}: there is no file {where}")
        sys.path.insert(0, str(path.resolve().parent))
        where = path.stem
    else:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(where)
    except ImportError as exc:
        raise ConfigError(f"--class {name}: {where} cannot be imported: {exc}") from None
    found = getattr(module, what, None)
    if not (isinstance(found, type) and issubclass(found, FieldDevice)):
        raise ConfigError(f"--class {name}: {where} has no class {what} derived from FieldDevice")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise ConfigError(f"--class {name}: it lacks {missing}")
    refuse_taken_names(found, f"--class {name}")
    return found


async def _serve(kind: type[FieldDevice], url: str, env_id: str, agent_id: str, name: str) -> None:
    stamper = MessageStamper(f"{agent_id}/{name}", env_id)
    will = (topics.device(agent_id, name, "status"), stamper.will(Status(state="offline")))
    async with leaving_others_alone(open_broker(url, env_id=env_id, will=will)) as broker:
        await kind(agent_id, name, broker, env_id=env_id, stamper=stamper).run()


def main() -> int:
    """Serve until told to end; returns the exit code."""
    name, *where = sys.argv[1:]
    try:
        run_until_told(_serve(device_class(name), *where))
    except AskedToEnd as asked:
        return exit_code(asked)
    except HeronError as exc:
        problems, code = told_at_the_end(exc)
        for problem in problems:
            sys.stderr.write(f"{name}: {problem}\n")
        return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
