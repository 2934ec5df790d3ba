# SPDX-License-Identifier: Apache-2.0

"""Closing sequences that may be gone: an error of one request's sequence would end the engine with all others."""

from __future__ import annotations

from collections.abc import Collection

from dcp_attention import Claimed, Cluster, Evicted, Sequence, ServiceError, UnknownSequence

GONE = (UnknownSequence, Evicted)
"""Errors of a sequence that an operator has closed, or the coordinator to make room."""


def close(cluster: Cluster, sequences: Collection[Sequence], *, keep: bool = False) -> None:
    """Closes sequences, but those that are gone, and those that another client has taken over.

    Raises:
        ServiceError: The first other error; the rest is closed.
    """
    if not sequences:
        return
    try:
        cluster.close_sequences(sequences, keep=keep)
    except ServiceError as error:
        for answer in error.answers:
            if isinstance(answer, ServiceError) and not isinstance(answer, (*GONE, Claimed)):
                raise answer from None
