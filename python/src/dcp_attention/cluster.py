"""A cluster for callers that wait: `Cluster`."""

from __future__ import annotations

import threading
from collections.abc import Coroutine, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from dcp_attention._io.blocking import BlockingTransport
from dcp_attention.async_cluster import AsyncCluster
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

    from dcp_attention.model import ModelDescription
    from dcp_attention.security import TLS
    from dcp_attention.tensors import Tensor

T = TypeVar("T")


class Cluster:
    """A DCP cluster as its clients see it: models, sequences, steps.

    Any thread may call it; calls are carried out one after the other. Every call ends: a request after ``timeout``, a
    step after ``step_timeout``, an outage after ``retry_for`` seconds.

    **Outages.** While ``retry_for`` lasts, what fails retryably is done again: the client waits for the cluster, makes
    the ranks agree on the sequences, appends again the keys and values that they have lost and that were not
    committed, which it keeps for that, and repeats the call. Callers see a delay. With ``retry_for=0`` nothing is kept
    and every failure is raised; then call `resume` before going on. A sequence of which another process appended
    tokens and did not commit them cannot be restored: `TokensLost` says where it ends.

    **One client at a time** uses a sequence. Who uses it first has the claim on it, until another calls `resume`; then
    this client's calls are refused as `Claimed`.
    """

    def __init__(self, cluster: AsyncCluster) -> None:
        """Use `connect`."""
        self._cluster = cluster
        self._lock = threading.RLock()

    @classmethod
    def connect(
        cls,
        endpoint: str | None = None,
        *,
        tls: TLS | None = None,
        timeout: float = 30,
        step_timeout: float = 60,
        retry_for: float = 60,
    ) -> Self:
        """Connects to a coordinator, and waits until its cluster is ready.

        Args:
            endpoint: ``unix:PATH`` or ``tcp:HOST:PORT``; ``None`` is the environment variable ``DCP_COORDINATOR``, else
                ``unix:/run/dcp/coordinator.sock``.
            tls: Who this client is, for TCP; ``None`` is what ``DCP_TLS_CA``, ``DCP_TLS_CERTIFICATE`` and
                ``DCP_TLS_KEY`` name, or plain TCP, at loopback addresses only.
            timeout: Seconds that a request may take, but a step.
            step_timeout: Seconds that a step may take.
            retry_for: Seconds for which an outage is waited out, the first connection included.

        Raises:
            Unreachable: Nobody has listened there for ``retry_for`` seconds.
            NotReady: The cluster was not ready for as long; the message names the missing ranks.
            AccessDenied: This user or certificate may not.
            Incompatible: The cluster speaks another version of the protocol.
            InvalidConfiguration: The endpoint or a certificate is no good.
        """
        transport = BlockingTransport()
        return cls(
            _finish(
                AsyncCluster.connect(
                    endpoint,
                    tls=tls,
                    timeout=timeout,
                    step_timeout=step_timeout,
                    retry_for=retry_for,
                    transport=transport,
                )
            )
        )

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        with self._lock:
            return _finish(coroutine)

    def close(self) -> None:
        """Closes the connections. Uncommitted tokens are taken back by the ranks 15 seconds later
        (``claim-timeout``).
        """
        self._run(self._cluster.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # The cluster.

    def topology(self, wait: float = 0) -> Topology:
        """The cluster as it is now; waits up to ``wait`` seconds for it to become ready, and answers in any case."""
        return self._run(self._cluster.topology(wait))

    # Models.

    def models(self) -> list[Model]:
        """All models."""
        return self._run(self._cluster.models())

    def model(self, name: str) -> Model:
        """The model of that name.

        Raises:
            UnknownModel: There is none.
        """
        return self._run(self._cluster.model(name))

    def register_model(self, name: str, description: ModelDescription) -> Model:
        """Registers a model, or confirms that it is registered as described. Without a revision any is confirmed.

        Raises:
            ModelMismatch: With the differences.
            InvalidModel: It does not fit the cluster.
        """
        return self._run(self._cluster.register_model(name, description))

    def remove_model(self, name: str) -> None:
        """Removes a model that no sequence uses.

        Raises:
            UnknownModel: There is none of that name.
            Conflict: A sequence uses it.
        """
        self._run(self._cluster.remove_model(name))

    # Sequences.

    def open(
        self,
        name: str,
        model: Model | str | None = None,
        *,
        scope: str = "",
        revision: str | None = None,
        create: bool = True,
    ) -> Sequence:
        """Opens a sequence, or makes an empty one. `status` tells how long it is, `resume` makes it this client's.

        Args:
            name: 1 to 255 bytes, no control characters.
            model: Which model it must have; ``None`` takes whichever it has, and then creates nothing.
            scope: Of a new sequence: who may find it by its tokens; at most 255 bytes.
            revision: What its model's must be; ``None`` takes any.
            create: Whether to make one that does not exist.

        Raises:
            UnknownSequence: It does not exist and is not to be made.
            ModelMismatch: With both models or revisions.
            Conflict: It has another scope.
        """
        return self._run(self._cluster.open(name, model, scope=scope, revision=revision, create=create))

    def open_many(
        self,
        names: Iterable[str],
        model: Model | str | None = None,
        *,
        scope: str = "",
        revision: str | None = None,
        create: bool = True,
    ) -> list[Sequence]:
        """Opens sequences in one request, in the order of their names; see `open`.

        Raises:
            ServiceError: The first that failed; its ``answers`` has every sequence or error.
        """
        return self._run(self._cluster.open_many(names, model, scope=scope, revision=revision, create=create))

    def open_matching(
        self,
        name: str,
        model: Model | str,
        token_ids: TokenIDs,
        *,
        scope: str = "",
        revision: str | None = None,
        longest: int | None = None,
    ) -> tuple[Sequence, int]:
        """Makes a sequence of what is stored of some token ids: a fork of the one of that model and scope that begins
        with most of them, which shares its blocks, or an empty one.

        Args:
            name: Of the new sequence.
            model: Of the sequences that are looked at.
            token_ids: From the first token on, as u32.
            scope: Of the sequences that are looked at, and of the new one.
            revision: What the model's must be; ``None`` takes any.
            longest: How many tokens it has at most; ``None`` for all. Fewer than the ids leaves some to be computed.

        Returns:
            The sequence, and how many of the ids it has, committed on every rank: go on from there.

        Raises:
            Conflict: There is a sequence of that name.
            UnknownModel: There is no such model.
            ModelMismatch: With both revisions.
        """
        return self._run(
            self._cluster.open_matching(name, model, token_ids, scope=scope, revision=revision, longest=longest)
        )

    def match(
        self, model: Model | str, token_ids: TokenIDs, *, scope: str = "", revision: str | None = None
    ) -> PrefixMatch | None:
        """The stored sequence of a model and scope that begins with the most of some ids, and with how many; ``None``
        when none begins with the first. Nothing is promised: to use it, call `open_matching`.

        Raises:
            UnknownModel: There is no such model.
            ModelMismatch: With both revisions.
        """
        return self._run(self._cluster.match(model, token_ids, scope=scope, revision=revision))

    def sequences(self) -> list[Sequence]:
        """All sequences that are not being closed, by number."""
        return self._run(self._cluster.sequences())

    def fork(self, parent: Sequence, name: str, length: int) -> Sequence:
        """Makes a new sequence of the first ``length`` tokens of another, which all its layers have, committed or not.
        Blocks are shared, not copied. What is not committed of the one is not of the other: each is committed for
        itself.

        Raises:
            InvalidRequest: A rank has fewer tokens.
            Conflict: There is a sequence of that name.
            Claimed: Another client has the parent.
        """
        return self._run(self._cluster.fork(parent, name, length))

    def fork_many(self, forks: Iterable[Fork]) -> list[Sequence]:
        """Makes new sequences in one request, in the order of ``forks``; see `fork`.

        Raises:
            ServiceError: The first that failed; its ``answers`` has every sequence or error.
        """
        return self._run(self._cluster.fork_many(forks))

    def close_sequences(self, sequences: Iterable[Sequence | str], *, keep: bool = False) -> None:
        """Deletes sequences, in one request. Blocks that forks share stay until the last of them is closed.

        Args:
            sequences: Sequences, or their names.
            keep: Leaves them to be found by their tokens until their room is needed; what is not committed is taken
                back.

        Raises:
            ServiceError: The first that failed; its ``answers`` has ``None`` or the error of each.
        """
        self._run(self._cluster.close_sequences(sequences, keep=keep))

    def retain(
        self,
        sequence: Sequence | str,
        *,
        pinned: bool | None = None,
        priority: int | None = None,
        time_to_live: int | None = None,
    ) -> Retention:
        """Changes how long a sequence stays, durably; ``None`` leaves a setting as it is. See `Retention`.

        Raises:
            UnknownSequence: It does not exist.
        """
        return self._run(self._cluster.retain(sequence, pinned=pinned, priority=priority, time_to_live=time_to_live))

    def cut(self, sequences: Sequence | Iterable[Sequence], length: int) -> None:
        """Cuts sequences to their first ``length`` tokens, committed or not. Tokens that are not committed cost one
        round trip.

        Raises:
            PositionMismatch: A layer has fewer tokens.
            ServiceError: The first that failed; its ``answers`` has ``None`` or the error of each.
        """
        self._run(self._cluster.cut(sequences, length))

    def cut_many(self, lengths: Iterable[tuple[Sequence, int]]) -> None:
        """Cuts sequences, each to a length of its own; see `cut`."""
        self._run(self._cluster.cut_many(lengths))

    def resume(self, sequence: Sequence, *, at_most: int | None = None) -> int:
        """Takes a sequence over, from another client or another process, and makes the ranks agree on it: what is
        under way ends, and all layers are cut to what every rank has of all of them.

        Args:
            sequence: Which one.
            at_most: How many tokens are kept at most; never below what is committed. ``None`` keeps what all have.

        Returns:
            Where all layers end: go on from there. What lies beyond `Progress.committed` is not durable yet, and not
            in this client's hands: pass ``at_most=0`` to give it up.
        """
        return self._run(self._cluster.resume(sequence, at_most=at_most))

    # Attention.

    def step(
        self,
        layer: int,
        entries: Iterable[Entry],
        q: Tensor,
        k: Tensor,
        v: Tensor | None = None,
        *,
        lse: bool = True,
        query_mode: QueryMode = QueryMode.GATHER,
    ) -> AttentionOutput:
        """One attention call for one layer: appends the entries' keys and values to their sequences, and answers with
        the exact causal attention of the queries over everything before and among them.

        Tensors are numpy arrays, torch tensors or anything with ``__dlpack__``, in f32, f16 or bf16 (u16 is taken as
        the bits of bf16), of any strides: one whose heads come first in memory, as ``x.transpose(...)`` of ``[H, T,
        D]``, is not copied but for the journal. More than a frame holds is sent as several steps.

        Args:
            layer: Which layer of the entries' model, from 0.
            entries: Sequences of one model, each once, with the position where its layer ends and how many tokens it
                brings.
            q: ``[tokens, Hq, Dk]``, the entries' tokens one after the other.
            k: ``[tokens, Hkv, Dk]``.
            v: ``[tokens, Hkv, Dv]``, of the dtype of ``k``; ``None`` where values are a part of the keys.
            lse: Whether the answer has log-sum-exps.
            query_mode: Whether ranks gather the queries, or are each sent all of their group's.

        Raises:
            InvalidRequest: A tensor is not of the layer's shape, or has a number that is NaN, infinite or beyond its
                limit.
            PositionMismatch: An entry does not begin where its layer ends, with both numbers.
            Claimed: Another client has taken a sequence over.
            TokensLost: An outage took tokens that this client does not have.
            RetryableError: The cluster did not answer within ``retry_for``.
        """
        return self._run(self._cluster.step(layer, entries, q, k, v, lse=lse, query_mode=query_mode))

    def append(self, layer: int, entries: Iterable[Entry], k: Tensor, v: Tensor | None = None) -> None:
        """Appends keys and values of one layer without attention, under the rules of `step`. Each rank is sent the
        tokens that it owns, and no others.
        """
        self._run(self._cluster.append(layer, entries, k, v))

    def query(
        self,
        layer: int,
        entries: Iterable[Entry],
        q: Tensor,
        *,
        lse: bool = True,
        query_mode: QueryMode = QueryMode.GATHER,
    ) -> AttentionOutput:
        """Attention alone: answers as `step` would have, had it brought the entries' tokens, which are in the layer
        already. For layers that use another layer's keys and values. Nothing is changed.

        Raises:
            PositionMismatch: A position is not in the layer, with both numbers.
        """
        return self._run(self._cluster.query(layer, entries, q, lse=lse, query_mode=query_mode))

    def commit(self, commits: Iterable[Commit]) -> None:
        """Makes the first tokens of sequences durable on every rank: all of one rank in one transaction, or none.

        Raises:
            PositionMismatch: A layer has not reached a length, or ids would leave a gap.
            Conflict: Ids contradict stored ones.
            InvalidRequest: Too many or too few ids, or too long an annotation.
        """
        self._run(self._cluster.commit(commits))

    # What is stored.

    def status(self, sequence: Sequence) -> Progress:
        """What the ranks hold of a sequence.

        Raises:
            UnknownSequence: Not every rank has it.
        """
        return self._run(self._cluster.status(sequence))

    def statuses(self, sequences: Iterable[Sequence]) -> dict[int, Progress]:
        """What the ranks hold of sequences, by their numbers; one that is not on every rank is left out."""
        return self._run(self._cluster.statuses(sequences))

    def token_ids(self, sequence: Sequence, start: int = 0, count: int | None = None) -> npt.NDArray[np.uint32]:
        """Token ids as they were committed, u32.

        Args:
            sequence: Whose.
            start: The position of the first.
            count: How many; ``None`` for all that there are.

        Raises:
            PositionMismatch: Beyond those it has.
        """
        return self._run(self._cluster.token_ids(sequence, start, count))

    def annotation(self, sequence: Sequence) -> bytes | None:
        """What a client left with a sequence at its last commit; ``None`` for nothing."""
        return self._run(self._cluster.annotation(sequence))

    def rows(self, sequence: Sequence, layer: int, start: int = 0, count: int | None = None) -> CachedRows:
        """Committed keys and values of one layer, bit by bit as they are attended to.

        Args:
            sequence: Whose.
            layer: Which layer.
            start: The position of the first token.
            count: How many; ``None`` for all that are committed.

        Raises:
            PositionMismatch: Above the committed length.
            StoreDamaged: A block fails its check.
            Conflict: The sequence was cut while it was read.
        """
        return self._run(self._cluster.rows(sequence, layer, start, count))

    def export(self, sequence: Sequence | str, path: str | os.PathLike[str]) -> Transfer:
        """Writes the committed tokens of a sequence to a safetensors file, as `dcpctl sequence export` does. It
        appears under its name complete or not at all. Memory is bounded by some megabytes.

        Raises:
            Conflict: The sequence was cut meanwhile, or a rank came back.
            OSError: The file cannot be written.
        """
        return self._run(self._cluster.export(sequence, path))

    def import_(
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        model: str | None = None,
        resume: bool = False,
    ) -> Transfer:
        """Makes a sequence of a file that an export wrote, on whatever shape of cluster, with the same bits.

        Args:
            path: The file.
            name: Of the sequence; ``None`` is the file's.
            model: Of its model; ``None`` is the file's. Registered when it is not known.
            resume: Goes on after an import that did not come to its end, once what is there has been compared with the
                file.

        Raises:
            Conflict: The sequence exists and is not empty, or is not what the file begins with.
            ModelMismatch: The model is registered and differs.
            InvalidRequest: The file is no export, naming what is wrong.
        """
        return self._run(self._cluster.import_(path, name=name, model=model, resume=resume))


def _finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Carries out a coroutine that never waits for a loop: over a `BlockingTransport` each wait is a blocking call."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    coroutine.close()
    raise RuntimeError("a blocking call waited for a loop")
