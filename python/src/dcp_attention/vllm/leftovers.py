# SPDX-License-Identifier: Apache-2.0

"""Sequences of engines that were killed: what tells that an engine lives, and what becomes of those of one that does
not.

An engine has a *marker*, an empty sequence that it claims again and again. A claim costs no write, needs no more than
the right to use, and is a new number each time. An engine whose marker's claim stays the same for a while is dead.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Collection
from itertools import count

from vllm.logger import init_logger

from dcp_attention import AccessDenied, Cluster, Model, Sequence, ServiceError
from dcp_attention.vllm.closing import GONE, close
from dcp_attention.vllm.options import Options

logger = init_logger(__name__)

# Seconds between two claims of a marker, and without one after which an engine is dead. They are no options: all
# engines of a cluster have to agree.
BEAT = 15.0
SILENCE = 120.0

_MARKER = re.compile(r"vllm~([0-9a-f]{12})")
_SEQUENCE = re.compile(r".*~([0-9a-f]{12})\.[0-9a-f]+")


class Life:
    """An engine's sign of life, from the start on, and its one search for engines without one."""

    def __init__(self, options: Options, cluster: Cluster, model: Model) -> None:
        """Begins both.

        Raises:
            ServiceError: The cluster cannot be reached.
        """
        self.engine = secrets.token_hex(6)
        self._numbers = count()
        self._model = model
        # There before the first sequence: what has no marker is nobody's leftover.
        cluster.open(self._marker, model)
        # Without retries: an outage interrupts the signs of all engines, and has to be seen.
        self._cluster = Cluster.connect(options.endpoint, retry_for=0)
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._live, name="dcp-life", daemon=True)
        self._thread.start()

    @property
    def _marker(self) -> str:
        return f"vllm~{self.engine}"

    def sequence_name(self, request_id: str) -> str:
        """A unique name that contains the request id and tells whose the sequence is: clients choose request ids, and
        may choose one twice.
        """
        return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', request_id)[:200]}~{self.engine}.{next(self._numbers):x}"

    def end(self) -> None:
        """Keeps what the worker has not closed, such as sequences of requests that waited, and closes the marker."""
        self._has_ended.set()
        self._thread.join(30)
        try:
            _keep(self._cluster, self.engine)
        except ServiceError as error:
            logger.warning("The sequences of engine %s are left to the next one: %s", self.engine, error)
        self._cluster.close()

    def _live(self) -> None:
        claims: dict[str, int] | None = None
        since, is_searching = 0.0, True
        while True:
            try:
                self._cluster.resume(self._cluster.open(self._marker, self._model))
                if is_searching and claims is None:
                    since, claims = time.monotonic(), self._claims()
                if is_searching and time.monotonic() - since >= SILENCE:
                    now = self._claims()
                    self._bury({engine for engine, claim in (claims or {}).items() if now.get(engine) == claim})
                    is_searching = False
            except ServiceError as error:
                # Others may have been as silent for the same reason: their silence counts from the end of it.
                claims = None
                logger.debug("Engine %s gives no sign of life: %s", self.engine, error)
            if self._has_ended.wait(BEAT):
                return

    def _claims(self) -> dict[str, int]:
        """Of each other engine the claim on its marker."""
        found: dict[str, int] = {}
        for sequence in self._cluster.sequences():
            marker = _MARKER.fullmatch(sequence.name)
            if marker is not None and marker[1] != self.engine:
                try:
                    found[marker[1]] = self._cluster.status(sequence).claim
                except GONE:
                    continue
        return found

    def _bury(self, engines: Collection[str]) -> None:
        for engine in sorted(engines):
            try:
                kept = _keep(self._cluster, engine)
            except AccessDenied as error:
                logger.warning("Engine %s is dead, and its sequences are another client's: %s", engine, error)
            else:
                logger.info("Engine %s is dead. Its %d sequences are kept until their room is needed.", engine, kept)


def _keep(cluster: Cluster, engine: str) -> int:
    """Keeps the sequences of an engine, and closes its marker when that is done.

    Returns:
        How many were kept.
    """
    left: list[Sequence] = []
    markers: list[Sequence] = []
    for sequence in cluster.sequences():
        name, marker = _SEQUENCE.fullmatch(sequence.name), _MARKER.fullmatch(sequence.name)
        if name is not None and name[1] == engine and not sequence.retention.is_kept:
            left.append(sequence)
        elif marker is not None and marker[1] == engine:
            markers.append(sequence)
    close(cluster, left, keep=True)
    close(cluster, markers)
    return len(left)
