# SPDX-License-Identifier: Apache-2.0

"""The scheduler's message to the worker about a step."""

from __future__ import annotations

from dataclasses import dataclass, field

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata

from dcp_attention import Sequence


@dataclass(frozen=True)
class Admission:
    """A request that starts, or continues after a preemption.

    Attributes:
        request_id: vLLM's name of it.
        first_block: The first of its blocks in vLLM's own cache, by which attention knows its rows.
        sequence: Where its keys and values are.
        length: How many tokens of the sequence count; vLLM computes from there on.
    """

    request_id: str
    first_block: int
    sequence: Sequence
    length: int


@dataclass(frozen=True)
class Share:
    """A request's tokens in a step.

    Attributes:
        request_id: vLLM's name of it.
        position: Of the first of them.
        token_ids: One for each.
    """

    request_id: str
    position: int
    token_ids: list[int]


@dataclass
class Plan(KVConnectorMetadata):
    """A step.

    Attributes:
        finished: Requests whose sequences are left to be found.
        admitted: Requests that begin or go on; after ``finished``, whose blocks they may have.
        shares: What is computed, and committed when all layers have it.
    """

    finished: list[str] = field(default_factory=list)
    admitted: list[Admission] = field(default_factory=list)
    shares: list[Share] = field(default_factory=list)
