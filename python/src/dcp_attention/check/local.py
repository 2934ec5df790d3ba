# SPDX-License-Identifier: Apache-2.0

"""A cluster on this machine, for as long as a block of code runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self


class NotStarted(RuntimeError):
    """A program of the service was not found, or has failed."""


def find_program(name: str) -> str:
    """The path of one of the service's programs: in ``DCP_BIN``, on the ``PATH``, or as ``make build`` leaves it.

    Raises:
        NotStarted: It is in none of these places.
    """
    path = os.environ.get("DCP_BIN", "")
    for directory in (path, os.environ.get("PATH", ""), str(Path(".build/release").absolute())):
        if directory and (found := shutil.which(name, path=directory)) is not None:
            return found
    raise NotStarted(
        f"`{name}` is neither in the directory that DCP_BIN names, nor on the PATH, nor in .build/release. Run `make "
        "build`, or set DCP_BIN to the directory of the programs."
    )


class LocalCluster:
    """Daemons that `dcpctl up` starts in a directory, and `dcpctl down` stops at the end of ``with``.

    Attributes:
        directory: Where stores, sockets and logs are; a temporary one unless one was given.
        endpoint: Of the coordinator, for `Cluster.connect`.
    """

    def __init__(
        self, ranks: int, *, directory: str | os.PathLike[str] | None = None, options: Mapping[str, str] | None = None
    ) -> None:
        """Prepares a cluster.

        Args:
            ranks: How many.
            directory: Where; ``None`` for a temporary directory that is removed at the end.
            options: More of ``dcpctl up``, without their dashes.
        """
        self._ranks = ranks
        self._options = [word for name, value in (options or {}).items() for word in (f"--{name}", value)]
        self._temporary = None if directory is not None else tempfile.TemporaryDirectory(prefix="dcp-")
        self.directory = Path(self._temporary.name if self._temporary is not None else directory or "")
        self.endpoint = f"unix:{self.directory}/coordinator.sock"

    def up(self) -> None:
        """Starts the daemons, or those that have died."""
        self._dcpctl("up", "--ranks", str(self._ranks), "--detach", *self._options)

    def down(self) -> None:
        """Stops the daemons; their stores stay."""
        self._dcpctl("down")

    def pids(self) -> dict[str, int]:
        """The process of each daemon: ``coordinator``, ``rank-0`` and so on."""
        daemons = json.loads((self.directory / "pids.json").read_text())["daemons"]
        return {daemon["name"]: daemon["process"]["pid"] for daemon in daemons}

    def _dcpctl(self, command: str, *arguments: str) -> None:
        words = [find_program("dcpctl"), command, "--dir", str(self.directory), *arguments]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotStarted(
                f"`{' '.join(words)}` ended with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}"
            )

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()
        if self._temporary is not None:
            self._temporary.cleanup()
