# SPDX-License-Identifier: Apache-2.0

"""The address of a daemon, and the peer that a client expects there."""

from __future__ import annotations

import ipaddress
import os
import shlex
from dataclasses import dataclass

from dcp_attention.errors import InvalidConfiguration, RankUnavailable, ServiceError, Unreachable

UNIX_PATH_BYTES_MAX = 107
DEFAULT = "unix:/run/dcp/coordinator.sock"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``unix:PATH`` or ``tcp:HOST:PORT``: a path, or a host and a port."""

    text: str
    path: str = ""
    host: str = ""
    port: int = 0

    @staticmethod
    def of(text: str) -> Endpoint:
        """The endpoint of a text.

        Raises:
            InvalidConfiguration: It is none, with the form that it should have.
        """
        if text.startswith("unix:"):
            path = text[5:]
            size = len(os.fsencode(path))
            if not 1 <= size <= UNIX_PATH_BYTES_MAX or "\0" in path:
                raise InvalidConfiguration(
                    f"The socket path `{path}` has {size} bytes, outside 1...{UNIX_PATH_BYTES_MAX}; choose a shorter "
                    "path or use tcp:HOST:PORT."
                )
            return Endpoint(text, path=path)
        kind, _, address = text.partition(":")
        host, _, port = address.rpartition(":")
        if kind == "tcp" and host and port.isascii() and port.isdigit() and int(port) <= 0xFFFF:
            return Endpoint(text, host=host.removeprefix("[").removesuffix("]"), port=int(port))
        raise InvalidConfiguration(
            f"`{text}` is not an endpoint; write unix:PATH or tcp:HOST:PORT, for example "
            "unix:/run/dcp/coordinator.sock or tcp:127.0.0.1:7400."
        )

    @staticmethod
    def default() -> Endpoint:
        """The coordinator of ``DCP_COORDINATOR``, else of this machine."""
        return Endpoint.of(os.environ.get("DCP_COORDINATOR") or DEFAULT)

    def start_of(self, rank: int) -> str:
        """The command that starts a rank beside the daemon that listens here: a unit's, or that of ``dcpctl up``."""
        directory = os.path.dirname(self.path) or "."
        if self.path and directory != "/run/dcp":
            return f"dcpctl up --dir {shlex.quote(directory)}"
        return f"systemctl start dcp-rank@{rank}"

    def check_plain(self) -> None:
        """Refuses to dial plain TCP beyond this machine: anybody on the way could answer, and read along.

        Raises:
            InvalidConfiguration: The host is no loopback address.
        """
        if self.path or _is_loopback(self.host):
            return
        raise InvalidConfiguration(
            f"{self.text} is not a loopback address, and plain TCP is allowed only on loopback; give `tls` with files "
            "that `dcpctl certs` made, or use a Unix socket."
        )


def _is_loopback(host: str) -> bool:
    # A name is not asked for: what it resolves to may change.
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom a client dials: a rank, or the coordinator without one."""

    endpoint: Endpoint
    rank: int | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return "the coordinator" if self.rank is None else f"rank {self.rank}"

    @property
    def role(self) -> str:
        """The role that its certificate must state."""
        return "dcp:coordinator" if self.rank is None else f"dcp:rank:{self.rank}"

    def unreachable(self, why: object) -> ServiceError:
        """The error for a daemon that does not answer."""
        if self.rank is None:
            return Unreachable(
                f"The coordinator does not answer at {self.endpoint.text} ({why}); start it, or correct the address."
            )
        return RankUnavailable(
            f"{self.name} does not answer at {self.endpoint.text} ({why}). Start it: "
            f"{self.endpoint.start_of(self.rank)}.",
            rank=self.rank,
        )

    def gone(self, why: object) -> ServiceError:
        """The error when the connection ends."""
        kind = Unreachable if self.rank is None else RankUnavailable
        return kind(f"{self.name}: the connection ended ({why}). Try again when it is back.", rank=self.rank)
