# SPDX-License-Identifier: Apache-2.0

"""The connector's half beside vLLM's scheduler: the sequence of a request, and how much of it is already stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dcp_attention import Cluster, Model, Sequence
from dcp_attention.vllm.closing import GONE, close
from dcp_attention.vllm.leftovers import Life
from dcp_attention.vllm.options import Options
from dcp_attention.vllm.plan import Admission, Plan, Share


@dataclass
class _Held:
    """A request, and the sequence that has its tokens.

    Attributes:
        request: vLLM's.
        sequence: Its sequence.
        length: How many of its tokens are committed when the worker has done what it was told.
        was_admitted: Whether the worker knows it.
    """

    request: Any
    sequence: Sequence
    length: int
    was_admitted: bool = False


class SchedulerSide:
    """Belongs to the scheduler's thread."""

    def __init__(self, options: Options, cluster: Cluster, model: Model, life: Life) -> None:
        self._options = options
        self._cluster = cluster
        self._model = model
        self._life = life
        self._held: dict[str, _Held] = {}
        self._plan = Plan()

    def matched_tokens(self, request: Any) -> int:
        """How many of a request's tokens need no computing.

        A new request's sequence is made here, of what is stored of its tokens: a number that was only looked up might
        be too large by the time that the worker asks for the tokens. The last token is always computed, for its logits.
        Of a request that was preempted everything is still there, unless the coordinator needed its room meanwhile.
        """
        held = self._held.get(request.request_id)
        if held is not None and not self._is_there(held):
            if held.was_admitted:
                self._plan.finished.append(request.request_id)  # for the worker, which knows the old sequence
            held = None
        elif held is not None and not held.was_admitted and self._has_more(held):
            # It has waited for room, and others have computed what it begins with.
            close(self._cluster, [held.sequence])
            held = None
        if held is None:
            held = self._held[request.request_id] = self._begin(request)
        return min(held.length, request.num_tokens - 1)

    def _begin(self, request: Any) -> _Held:
        name, longest = self._life.sequence_name(request.request_id), self._longest(request)
        scope = self._options.request_scope(request.cache_salt)
        if longest == 0:
            return _Held(request, self._cluster.open(name, self._model, scope=scope), 0)
        token_ids = list(request.all_token_ids)
        sequence, length = self._cluster.open_matching(name, self._model, token_ids, scope=scope, longest=longest)
        return _Held(request, sequence, length)

    def _is_there(self, held: _Held) -> bool:
        """Whether the sequence of a request that waits was not evicted. To open it counts as a use, so that it stays
        until the worker has it.
        """
        try:
            self._cluster.open(held.sequence.name, create=False)
        except GONE:
            return False
        return True

    def _has_more(self, held: _Held) -> bool:
        longest = self._longest(held.request)
        if held.length >= longest:
            return False
        scope = self._options.request_scope(held.request.cache_salt)
        match = self._cluster.match(self._model, list(held.request.all_token_ids), scope=scope)
        return match is not None and min(match.length, longest) > held.length

    @staticmethod
    def _longest(request: Any) -> int:
        """The most tokens to reuse: never the last one, and none if all logits of a prompt are requested."""
        return 0 if request.skip_reading_prefix_cache else int(request.num_tokens) - 1

    def admit(self, request: Any, first_block: int, length: int) -> None:
        """Records that a request has blocks and begins at a length, which is at most the matched one."""
        held = self._held[request.request_id]
        held.length = length
        held.was_admitted = True
        self._plan.admitted.append(Admission(request.request_id, first_block, held.sequence, length))

    def finish(self, request_id: str) -> None:
        """Notes that a request is over. The worker, which has its sequence, closes it with the next step."""
        held = self._held.pop(request_id, None)
        if held is None:
            return
        if held.was_admitted:
            self._plan.finished.append(request_id)
        else:
            close(self._cluster, [held.sequence])

    def next_plan(self, scheduled: dict[str, int]) -> Plan:
        """The plan of a step in which each request computes this many tokens from its current length."""
        plan, self._plan = self._plan, Plan()
        for request_id, count in scheduled.items():
            held = self._held[request_id]
            position = held.request.num_computed_tokens
            token_ids = list(held.request.all_token_ids[position : position + count])
            plan.shares.append(Share(request_id, position, token_ids))
            held.length = position + count
        return plan
