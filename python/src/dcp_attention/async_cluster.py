# SPDX-License-Identifier: Apache-2.0

"""The client for asyncio, on which the blocking client is built: `AsyncCluster`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING

from dcp_attention._client.attention import Attention, checked_ids
from dcp_attention._client.claims import Claims
from dcp_attention._client.directory import Directory
from dcp_attention._client.keeper import Keeper
from dcp_attention._client.outages import TIMEOUT_MAX, Outage, check_seconds
from dcp_attention._client.plan import contents
from dcp_attention._client.session import Session
from dcp_attention._client.stored import Stored
from dcp_attention._client.transfer import Transfers
from dcp_attention._io.endpoint import Endpoint
from dcp_attention._io.loop import LoopTransport
from dcp_attention.errors import ServiceError
from dcp_attention.model import DType
from dcp_attention.security import TLS
from dcp_attention.values import (
    AttentionOutput,
    CachedRows,
    Commit,
    Entry,
    Fork,
    Model,
    PrefixMatch,
    Progress,
    QueryMode,
    Retention,
    Sequence,
    TokenIDs,
    Topology,
    Transfer,
)

if TYPE_CHECKING:
    import os

    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Self

    from dcp_attention._io.transport import Transport
    from dcp_attention.model import ModelDescription
    from dcp_attention.tensors import Tensor


class AsyncCluster:
    """`Cluster` with coroutines: every call has the same arguments, results and errors.

    Of one event loop. Calls about different sequences run beside each other; calls about the same one are carried out
    in the order in which they were made.
    """

    def __init__(self, session: Session, retry_for: float) -> None:
        """Use `connect`."""
        self._session = session
        self._claims = Claims(session)
        self._keeper = Keeper(session, self._claims, retry_for)
        self._attention = Attention(session, self._claims, self._keeper)
        self._stored = Stored(session, self._keeper)
        self._directory = Directory(session, self._claims, self._keeper, self._stored)
        self._transfers = Transfers(self._directory, self._attention, self._stored, self._keeper)

    @classmethod
    async def connect(
        cls,
        endpoint: str | None = None,
        *,
        tls: TLS | None = None,
        timeout: float = 30,
        step_timeout: float = 60,
        retry_for: float = 60,
        transport: Transport | None = None,
    ) -> Self:
        """See `Cluster.connect`. ``transport`` replaces the network, for example in tests."""
        check_seconds("timeout", timeout, TIMEOUT_MAX)
        check_seconds("step_timeout", step_timeout, TIMEOUT_MAX)
        check_seconds("retry_for", retry_for)
        coordinator = Endpoint.default() if endpoint is None else Endpoint.of(endpoint)
        session = Session(
            transport or LoopTransport(), coordinator, tls or TLS.from_environment(), timeout, step_timeout
        )
        cluster = cls(session, retry_for)
        try:
            await cluster._reach(lambda: session.ready_topology(min(retry_for, timeout)))
        except BaseException:
            await cluster.close()
            raise
        return cluster

    async def _reach(self, ask: Callable[[], Awaitable[Topology]]) -> Topology:
        """Asks the coordinator until it answers, or the outage has lasted for ``retry_for``."""
        outage = Outage(self._keeper.retry_for)
        while True:
            try:
                return await ask()
            except ServiceError as error:
                retry = outage.failed(error, time.monotonic())
            # Between two dials: nothing tells when somebody listens at an address.
            await self._session.transport.sleep(retry.after)

    async def close(self) -> None:
        """See `Cluster.close`."""
        await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # The cluster.

    async def topology(self, wait: float = 0) -> Topology:
        """See `Cluster.topology`."""
        check_seconds("wait", max(wait, 0))
        return await self._reach(lambda: self._session.topology(wait))

    # Models.

    async def models(self) -> list[Model]:
        """See `Cluster.models`."""
        return await self._directory.models()

    async def model(self, name: str) -> Model:
        """See `Cluster.model`."""
        return await self._directory.model(name)

    async def register_model(self, name: str, description: ModelDescription) -> Model:
        """See `Cluster.register_model`."""
        return await self._directory.register_model(name, description)

    async def remove_model(self, name: str) -> None:
        """See `Cluster.remove_model`."""
        await self._directory.remove_model(name)

    # Sequences.

    async def open(
        self,
        name: str,
        model: Model | str | None = None,
        *,
        scope: str = "",
        revision: str | None = None,
        create: bool = True,
    ) -> Sequence:
        """See `Cluster.open`."""
        return (await self._directory.open_many([name], model, scope, revision, create))[0]

    async def open_many(
        self,
        names: Iterable[str],
        model: Model | str | None = None,
        *,
        scope: str = "",
        revision: str | None = None,
        create: bool = True,
    ) -> list[Sequence]:
        """See `Cluster.open_many`."""
        return await self._directory.open_many(names, model, scope, revision, create)

    async def open_matching(
        self,
        name: str,
        model: Model | str,
        token_ids: TokenIDs,
        *,
        scope: str = "",
        revision: str | None = None,
        longest: int | None = None,
    ) -> tuple[Sequence, int]:
        """See `Cluster.open_matching`."""
        return await self._directory.open_matching(name, model, token_ids, scope, revision, longest)

    async def match(
        self, model: Model | str, token_ids: TokenIDs, *, scope: str = "", revision: str | None = None
    ) -> PrefixMatch | None:
        """See `Cluster.match`."""
        known = await self._directory.model(model) if isinstance(model, str) else model
        return await self._stored.match(known, checked_ids(token_ids), scope, revision)

    async def sequences(self) -> list[Sequence]:
        """See `Cluster.sequences`."""
        return await self._directory.sequences()

    async def fork(self, parent: Sequence, name: str, length: int) -> Sequence:
        """See `Cluster.fork`."""
        return (await self._directory.fork([Fork(parent, name, length)]))[0]

    async def fork_many(self, forks: Iterable[Fork]) -> list[Sequence]:
        """See `Cluster.fork_many`."""
        return await self._directory.fork(forks)

    async def close_sequences(self, sequences: Iterable[Sequence | str], *, keep: bool = False) -> None:
        """See `Cluster.close_sequences`."""
        await self._directory.close(sequences, keep)

    async def retain(
        self,
        sequence: Sequence | str,
        *,
        pinned: bool | None = None,
        priority: int | None = None,
        time_to_live: int | None = None,
    ) -> Retention:
        """See `Cluster.retain`."""
        return await self._directory.retain(sequence, pinned, priority, time_to_live)

    async def cut(self, sequences: Sequence | Iterable[Sequence], length: int) -> None:
        """See `Cluster.cut`."""
        some = [sequences] if isinstance(sequences, Sequence) else sequences
        await self._directory.cut((sequence, length) for sequence in some)

    async def cut_many(self, lengths: Iterable[tuple[Sequence, int]]) -> None:
        """See `Cluster.cut_many`."""
        await self._directory.cut(lengths)

    async def resume(self, sequence: Sequence, *, at_most: int | None = None) -> int:
        """See `Cluster.resume`."""

        async def attempt(_: int) -> int:
            # What was known and claimed is of no use any more, whoever has the sequence.
            self._keeper.drop(sequence)
            return await self._keeper.take_over(sequence, at_most)

        return await self._keeper.persist([sequence], attempt, prepares=False)

    # Attention.

    async def step(
        self,
        layer: int,
        entries: Iterable[Entry],
        q: Tensor,
        k: Tensor,
        v: Tensor | None = None,
        *,
        lse: bool = True,
        query_mode: QueryMode | None = None,
        commits: Iterable[Commit] = (),
    ) -> AttentionOutput:
        """See `Cluster.step`."""
        keeps = self._keeper.retry_for > 0
        step = contents(layer, entries, q, k, v, query_mode=query_mode, lse=lse, keeps=keeps)
        return await self._attention.run(step, commits)

    async def append(self, layer: int, entries: Iterable[Entry], k: Tensor, v: Tensor | None = None) -> None:
        """See `Cluster.append`."""
        await self._attention.run(contents(layer, entries, None, k, v, keeps=self._keeper.retry_for > 0))

    async def query(
        self,
        layer: int,
        entries: Iterable[Entry],
        q: Tensor,
        *,
        lse: bool = True,
        query_mode: QueryMode | None = None,
    ) -> AttentionOutput:
        """See `Cluster.query`."""
        return await self._attention.run(contents(layer, entries, q, None, None, query_mode=query_mode, lse=lse))

    async def commit(self, commits: Iterable[Commit]) -> None:
        """See `Cluster.commit`."""
        await self._attention.commit(commits)

    # What is stored.

    async def status(self, sequence: Sequence) -> Progress:
        """See `Cluster.status`."""
        return await self._stored.status(sequence)

    async def statuses(self, sequences: Iterable[Sequence]) -> dict[int, Progress]:
        """See `Cluster.statuses`."""
        return await self._stored.statuses(sequences)

    async def token_ids(self, sequence: Sequence, start: int = 0, count: int | None = None) -> npt.NDArray[np.uint32]:
        """See `Cluster.token_ids`."""
        return await self._stored.token_ids(sequence, start, count)

    async def annotation(self, sequence: Sequence) -> bytes | None:
        """See `Cluster.annotation`."""
        return await self._stored.annotation(sequence)

    async def rows(self, sequence: Sequence, layer: int, start: int = 0, count: int | None = None) -> CachedRows:
        """See `Cluster.rows`."""
        return await self._stored.rows(sequence, layer, start, count)

    async def export(
        self, sequence: Sequence | str, path: str | os.PathLike[str], *, dtype: DType | str | None = None
    ) -> Transfer:
        """See `Cluster.export`."""
        rows = DType.named(dtype) if isinstance(dtype, str) else dtype
        known = await self.open(sequence) if isinstance(sequence, str) else sequence
        return await self._transfers.export(known, path, rows)

    async def import_(
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        model: str | None = None,
        resume: bool = False,
    ) -> Transfer:
        """See `Cluster.import_`."""
        return await self._transfers.import_(path, name, model, resume)
