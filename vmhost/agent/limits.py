"""Every bound of the agent's host side, with its unit and reason. What the guest's half must know too is protocol's."""

from __future__ import annotations

from typing import Final

HUNT_BYTES_MAX: Final = 4 << 20  # of an older stream before the welcome: buffers of QEMU and both kernels, and padding
SESSIONS_MAX: Final = 64  # at once; the guest has the same
CONNECTIONS_MAX: Final = 40  # of them, into published TCP ports; further ones wait
DATAGRAM_SESSIONS_MAX: Final = 16  # and into UDP ports: whoever knocks from outside leaves some to `exec`
QUEUE_BYTES: Final = 256 * 1024  # of frames that wait for the line; who would send more waits
SIGNALS_MAX: Final = 16  # that wait for the line, of one session; more are the same as fewer
ANSWER_BYTES: Final = 4 << 20  # of one operation: 1024 processes, each with its stat line and command
WORDS_BYTES: Final = 512  # of what the guest says about an error
RECEIVE_BYTES: Final = 128 * 1024  # one read of the line

OPEN_SECONDS: Final = 60.0  # from nothing to an agent that answers: a guest that boots without KVM, on a busy host
OPEN_RETRY_SECONDS: Final = 0.02  # between two looks for the socket of a QEMU that is starting
VSOCK_ANSWER_BYTES: Final = 32  # "OK " and a port, which has ten digits
CALL_SECONDS: Final = 60.0  # for an operation that only asks or sets something
PING_SECONDS: Final = 5.0  # of silence before the guest is asked whether it is there
SILENCE_SECONDS: Final = 15.0  # without a byte from the guest before it is given up
STANDSTILL_SECONDS: Final = 2.0  # by which we wake too late: this process was stopped, or its host overloaded
ABANDON_SECONDS: Final = 5.0  # for saying goodbye to a session whose user is cancelled
