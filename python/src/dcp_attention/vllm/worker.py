# SPDX-License-Identifier: Apache-2.0

"""The connector's half beside the model: opens, steps, commits and closes the sequences of the requests that run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dcp_attention import AttentionOutput, Cluster, Commit, Entry, Sequence
from dcp_attention.vllm.closing import close
from dcp_attention.vllm.plan import Admission, Plan


class WorkerSide:
    """Belongs to the model runner's thread."""

    def __init__(self, cluster: Cluster, layers: Iterable[str]) -> None:
        self._cluster = cluster
        self._layers = {name: index for index, name in enumerate(layers)}
        self._sequences: dict[str, Sequence] = {}
        self._of_block: dict[int, str] = {}
        self._plan = Plan()
        self._answered: set[str] = set()

    def begin(self, plan: Plan) -> None:
        """Carries out the part of a plan that comes before the step."""
        self._plan = plan
        self._answered.clear()
        self.close(plan.finished)
        for admission in plan.admitted:
            self._admit(admission)

    def _admit(self, admission: Admission) -> None:
        request, sequence = admission.request_id, admission.sequence
        if request in self._sequences:
            length = self._cluster.status(sequence).length
        else:
            length = self._cluster.resume(sequence)
            self._sequences[request] = sequence
        if length < admission.length:
            raise RuntimeError(
                f"Sequence `{sequence.name}` of request `{request}` has {length} tokens, and had {admission.length} "
                "when the request was scheduled; another client has cut it."
            )
        if length > admission.length:
            self._cluster.cut(sequence, admission.length)
        self._of_block = {block: other for block, other in self._of_block.items() if other != request}
        self._of_block[admission.first_block] = request

    def entries(self, first_blocks: list[int], positions: list[int], counts: list[int]) -> list[Entry]:
        """The entries of a batch whose rows vLLM knows by their first blocks; a row without tokens is padding."""
        return [
            Entry(self._sequences[self._of_block[block]], position, count)
            for block, position, count in zip(first_blocks, positions, counts, strict=True)
            if count
        ]

    def step(self, layer_name: str, entries: list[Entry], q: Any, k: Any, v: Any) -> AttentionOutput:
        """Appends and attends in one layer; see `Cluster.step`."""
        answer = self._cluster.step(self._layers[layer_name], entries, q, k, v, lse=False)
        self._answered.add(layer_name)
        return answer

    def commit(self) -> None:
        """Commits the tokens that the step computed, with their ids: all requests in one transaction.

        Does nothing if a layer has no answer: then the step has failed, and a refused commit would hide its error.
        """
        if self._plan.shares and len(self._answered) == len(self._layers):
            self._cluster.commit(
                Commit(self._sequences[share.request_id], share.position + len(share.token_ids), share.token_ids)
                for share in self._plan.shares
            )
        self._plan = Plan()

    def close(self, requests: Iterable[str] | None = None) -> None:
        """Leaves the sequences of requests, or of all, to be found by their tokens until their room is needed."""
        closing = set(self._sequences if requests is None else requests)
        sequences = [self._sequences.pop(request) for request in sorted(closing)]
        self._of_block = {block: request for block, request in self._of_block.items() if request not in closing}
        close(self._cluster, sequences, keep=True)
