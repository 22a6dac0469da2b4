"""How long the parts of an end may take, s: a run ends within 2 s, whatever does not answer, and later only
for devices that measure seldom.
"""

from __future__ import annotations

LAST_MESSAGE_S = 1.0
"""For the last message of an operator; the will says as much."""
LET_GO_S = 0.8
"""For devices to show their release."""
SELDOM_S = 7.0
"""The same for those that measure seldom, at most: what ends programs by force waits for 10 s and more."""
LEAVE_S = 0.8
"""For proxies and operator of a run to leave, beside the time for devices."""
RECORD_HEAD_S = 1.6
"""For the hash of a run's record to be published."""

BREAK_OFF_S = 0.3
"""For what a device is doing to end."""
TELL_END_S = 1.0
"""After that, for its hardware to be told of the safe state, or of its release."""
SHOWS_REST_S = 0.6
"""After that, for hardware that had power to show 0."""
SHOWS_SELDOM_S = 4.0
"""The same for a vendor's device that is slow, or says its power seldom, at most."""

BRIDGE_TELLS_END_S = 2.0
"""For the device behind a bridge to be told of its release: it is tried again meanwhile."""
