# SPDX-License-Identifier: Apache-2.0

"""The requests of clients and their answers, except those with tensors (steps, keys and values)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from dcp_attention._wire.codec import (
    BOOL,
    BYTES,
    FAILURE,
    I8,
    LENGTH,
    NOTHING,
    RANK,
    STRING,
    U8,
    U32,
    U64,
    Answer,
    Array,
    Codec,
    Optional,
    Present,
    Record,
)
from dcp_attention._wire.records import (
    DESCRIPTION,
    MODEL,
    RETENTION,
    SEQUENCE,
    TOPOLOGY,
    ListedSequence,
    Listing,
    ListSequences,
    SequenceRecord,
)
from dcp_attention.errors import ServiceError
from dcp_attention.model import ModelDescription
from dcp_attention.values import Model, Retention, Topology

Q = TypeVar("Q")
R = TypeVar("R")

REPLY_BIT = 0x8000
ITEMS_MAX = 1024


@dataclass(frozen=True)
class Request(Generic[Q, R]):
    """A kind of request: its number, and how its fields and its reply's stand in frames."""

    type: int
    fields: Codec[Q]
    reply: Codec[R]


@dataclass(frozen=True)
class Many(Generic[Q, R]):
    """A kind of request for many things, each done or refused by itself.

    Attributes:
        items_max: How many items one request has.
    """

    type: int
    item: Codec[Q]
    answer: Codec[R]
    items_max: int = ITEMS_MAX

    @property
    def request(self) -> Request[tuple[Q, ...], tuple[R | ServiceError, ...]]:
        """The request of several items."""
        return Request(self.type, Array(self.item), Array(Answer(self.answer)))


# Greetings.


@dataclass(frozen=True, slots=True)
class Hello:
    """The sender: role 1 is a client, 2 a rank, 3 the coordinator."""

    role: int
    rank: int | None
    fingerprint: int
    layout: str
    release: str
    features: int = 0


HELLO_TYPE, WELCOME_TYPE, FAILURE_TYPE = 1, 2, 3
HELLO: Record[Hello] = Record(Hello, role=U8, rank=RANK, fingerprint=U64, layout=STRING, release=STRING, features=U32)
FAILURE_FIELDS = FAILURE

# The coordinator's.


@dataclass(frozen=True, slots=True)
class Wait:
    """How long to wait for the cluster to be ready."""

    milliseconds: int


@dataclass(frozen=True, slots=True)
class RegisterModel:
    """Registers a model, or confirms that it is as described."""

    name: str
    description: ModelDescription


@dataclass(frozen=True, slots=True)
class Named:
    """The thing of this name."""

    name: str


@dataclass(frozen=True, slots=True)
class OpenSequence:
    """Opens a sequence; an empty model takes whichever it has."""

    name: str
    model: str
    revision: str
    scope: str
    create: bool


@dataclass(frozen=True, slots=True)
class OpenedSequence:
    """A sequence and its model."""

    sequence: SequenceRecord
    model: Model


@dataclass(frozen=True, slots=True)
class ClaimSequence:
    """Claims a sequence: 0 takes it over, a held claim keeps it."""

    sequence: int
    held: int


@dataclass(frozen=True, slots=True)
class ForkSequence:
    """Makes a sequence of the first tokens of another."""

    name: str
    new_name: str
    length: int
    claim: int


@dataclass(frozen=True, slots=True)
class TruncateSequence:
    """Cuts committed tokens."""

    name: str
    length: int
    claim: int


@dataclass(frozen=True, slots=True)
class CloseSequence:
    """Deletes a sequence, or leaves it to be found by its tokens."""

    name: str
    claim: int
    keep: bool


@dataclass(frozen=True, slots=True)
class RetainSequence:
    """Changes the retention of a sequence; ``None`` leaves a setting unchanged."""

    name: str
    is_pinned: bool | None
    priority: int | None
    time_to_live: int | None


@dataclass(frozen=True, slots=True)
class OpenMatching:
    """Makes a sequence from the longest stored prefix of some ids."""

    name: str
    model: str
    revision: str
    scope: str
    ids: tuple[int, ...]
    longest: int


@dataclass(frozen=True, slots=True)
class MatchedSequence:
    """The sequence that was made, and how many of the ids it has."""

    sequence: SequenceRecord
    model: Model
    length: int
    claim: int


GET_TOPOLOGY: Request[Wait, Topology] = Request(0x0100, Record(Wait, milliseconds=U32), TOPOLOGY)
REGISTER_MODEL: Many[RegisterModel, Model] = Many(
    0x0101, Record(RegisterModel, name=STRING, description=DESCRIPTION), MODEL
)
REMOVE_MODEL: Many[Named, None] = Many(0x0102, Record(Named, name=STRING), NOTHING)
LIST_MODELS: Request[None, tuple[Model, ...]] = Request(0x0103, NOTHING, Array(MODEL))
OPEN_SEQUENCE: Many[OpenSequence, OpenedSequence] = Many(
    0x0104,
    Record(OpenSequence, name=STRING, model=STRING, revision=STRING, scope=STRING, create=BOOL),
    Record(OpenedSequence, sequence=SEQUENCE, model=MODEL),
)
OPEN_CANARY: Many[Named, OpenedSequence] = Many(
    0x010D, Record(Named, name=STRING), Record(OpenedSequence, sequence=SEQUENCE, model=MODEL)
)
LIST_SEQUENCES: Request[ListSequences, Listing] = Request(
    0x0105,
    Record(ListSequences, prefix=STRING, after=U64, count=U32),
    Record(
        Listing,
        models=Array(MODEL),
        sequences=Array(Record(ListedSequence, record=SEQUENCE, retention=RETENTION)),
        next=U64,
        directory_count=U32,
    ),
)
LIST_SEQUENCES_MAX = 8192
CLAIM_SEQUENCE: Many[ClaimSequence, int] = Many(0x0106, Record(ClaimSequence, sequence=U64, held=U64), U64)
FORK_SEQUENCE: Many[ForkSequence, SequenceRecord] = Many(
    0x0107, Record(ForkSequence, name=STRING, new_name=STRING, length=LENGTH, claim=U64), SEQUENCE
)
TRUNCATE_SEQUENCE: Many[TruncateSequence, None] = Many(
    0x0108, Record(TruncateSequence, name=STRING, length=LENGTH, claim=U64), NOTHING
)
CLOSE_SEQUENCE: Many[CloseSequence, None] = Many(
    0x0109, Record(CloseSequence, name=STRING, claim=U64, keep=BOOL), NOTHING
)
RETAIN_SEQUENCE: Many[RetainSequence, Retention] = Many(
    0x010A,
    Record(
        RetainSequence,
        name=STRING,
        is_pinned=Present(BOOL, False),
        priority=Present(I8, 0),
        time_to_live=Present(U32, 0),
    ),
    RETENTION,
)
OPEN_MATCHING: Many[OpenMatching, MatchedSequence] = Many(
    0x010B,
    Record(OpenMatching, name=STRING, model=STRING, revision=STRING, scope=STRING, ids=Array(U32), longest=LENGTH),
    Record(MatchedSequence, sequence=SEQUENCE, model=MODEL, length=LENGTH, claim=U64),
    items_max=64,
)

# A rank's.


@dataclass(frozen=True, slots=True)
class StartedIDs:
    """Token ids from a position on."""

    start: int
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CommitPart:
    """The part of a sequence to make durable."""

    sequence: int
    length: int
    claim: int
    tokens: StartedIDs | None
    annotation: bytes | None


@dataclass(frozen=True, slots=True)
class SequenceStatus:
    """A sequence's state on a rank."""

    sequence: int
    committed: int
    local_tokens: int
    claim: int
    intact: int
    token_ids: int
    layers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CutUncommitted:
    """Cuts all layers to a length; committed tokens stay."""

    sequence: int
    length: int
    claim: int


@dataclass(frozen=True, slots=True)
class MatchTokens:
    """Which sequence begins with the most of some ids."""

    model: int
    scope: str
    ids: tuple[int, ...]
    excluding: tuple[int, ...]
    revision: str


@dataclass(frozen=True, slots=True)
class HeldLength:
    """How much of a sequence there is."""

    sequence: int
    length: int


@dataclass(frozen=True, slots=True)
class ReadTokens:
    """Reads token ids and the annotation."""

    sequence: int
    start: int
    count: int
    wants_annotation: bool


@dataclass(frozen=True, slots=True)
class StoredTokens:
    """Token ids and the annotation."""

    ids: tuple[int, ...]
    annotation: bytes | None


COMMIT: Request[tuple[CommitPart, ...], None] = Request(
    0x0201,
    Array(
        Record(
            CommitPart,
            sequence=U64,
            length=LENGTH,
            claim=U64,
            tokens=Optional(Record(StartedIDs, start=LENGTH, ids=Array(U32))),
            annotation=Optional(BYTES),
        )
    ),
    NOTHING,
)
SEQUENCE_STATUS: Many[int, SequenceStatus] = Many(
    0x0202,
    U64,
    Record(
        SequenceStatus,
        sequence=U64,
        committed=LENGTH,
        local_tokens=LENGTH,
        claim=U64,
        intact=LENGTH,
        token_ids=LENGTH,
        layers=Array(LENGTH),
    ),
)
CUT_UNCOMMITTED: Many[CutUncommitted, int] = Many(
    0x0203, Record(CutUncommitted, sequence=U64, length=LENGTH, claim=U64), LENGTH
)
MATCH: Request[MatchTokens, HeldLength | None] = Request(
    0x0207,
    Record(MatchTokens, model=U32, scope=STRING, ids=Array(U32), excluding=Array(U64), revision=STRING),
    Optional(Record(HeldLength, sequence=U64, length=LENGTH)),
)
READ_TOKENS: Request[ReadTokens, StoredTokens] = Request(
    0x0208,
    Record(ReadTokens, sequence=U64, start=LENGTH, count=LENGTH, wants_annotation=BOOL),
    Record(StoredTokens, ids=Array(U32), annotation=Optional(BYTES)),
)

REQUESTS: tuple[Request[Any, Any] | Many[Any, Any], ...] = (
    GET_TOPOLOGY,
    REGISTER_MODEL,
    REMOVE_MODEL,
    LIST_MODELS,
    OPEN_SEQUENCE,
    OPEN_CANARY,
    LIST_SEQUENCES,
    CLAIM_SEQUENCE,
    FORK_SEQUENCE,
    TRUNCATE_SEQUENCE,
    CLOSE_SEQUENCE,
    RETAIN_SEQUENCE,
    OPEN_MATCHING,
    COMMIT,
    SEQUENCE_STATUS,
    CUT_UNCOMMITTED,
    MATCH,
    READ_TOKENS,
)
