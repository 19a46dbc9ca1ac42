"""What the sessions of a guest were like when it was saved with its container: what its memory does not say."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hyperlog.errors import Corrupt
from vmhost.agent import protocol
from vmhost.agent.client import Agent
from vmhost.agent.multiplexer import STDERR, STDOUT, Multiplexer, SavedSession
from vmhost.agent.session import Session

_NUMBERS: Final = 0xFFFF
_PID_MAX: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class SavedSessions:
    """Of the guest with one container. `container`: its name there, whatever it is called when it is restored."""

    container: str
    main: SavedSession
    """Of the container's program."""
    lead: SavedSession
    """Of the program that leads it."""
    program_pid: int
    """Of that, in the guest."""
    others: tuple[SavedSession, ...]
    """Those whose users stay behind."""

    def fields(self) -> dict[str, Any]:
        """As JSON has them."""
        return dataclasses.asdict(self)

    def resume(self, agent: Agent) -> tuple[Session, Session]:
        """The sessions of program and leader, in the restored guest; the others end. At once after `open_agent`."""
        main = agent.resume(self.main)
        lead = agent.resume(self.lead, program_pid=self.program_pid)
        for other in self.others:
            agent.drop(other)
        return main, lead


def saved_sessions(state: Multiplexer, container: str, main: Session, lead: Session) -> SavedSessions:
    """`state`: as a guest was saved. Raises KeyError when the container has just ended."""
    kept = state.saved(main.number), state.saved(lead.number)
    others = state.others({main.number, lead.number})
    return SavedSessions(container, *kept, lead.program_pid, tuple(others))


def read_saved_sessions(fields: Any) -> SavedSessions:
    """What `fields` said. Raises Corrupt."""
    try:
        return SavedSessions(
            container=str(fields["container"]),
            main=_session(fields["main"]),
            lead=_session(fields["lead"]),
            program_pid=_number(fields["program_pid"], _PID_MAX),
            others=tuple(_session(other) for other in fields["others"]),
        )
    except (LookupError, TypeError, ValueError, AttributeError):
        raise Corrupt("it is not said what ran in the saved machine") from None


def _session(fields: Mapping[str, Any]) -> SavedSession:
    credit = {int(channel): _number(count, protocol.WINDOW_BYTES) for channel, count in fields["output_credit"].items()}
    if not credit.keys() <= {STDOUT, STDERR}:
        raise ValueError("no such channel")
    return SavedSession(
        _number(fields["number"], _NUMBERS), _number(fields["input_credit"], protocol.WINDOW_BYTES), credit
    )


def _number(value: object, limit: int) -> int:
    if not isinstance(value, int) or not 0 <= value <= limit:
        raise ValueError("a number beyond its bounds")
    return value
