# SPDX-License-Identifier: Apache-2.0

"""The KV connector: vLLM's calls, passed on to its halves beside the scheduler and beside the model."""

from __future__ import annotations

from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata, KVConnectorRole
from vllm.logger import init_logger

from dcp_attention import Cluster
from dcp_attention.vllm.description import attention_layers, describe
from dcp_attention.vllm.leftovers import Life
from dcp_attention.vllm.options import Options
from dcp_attention.vllm.plan import Plan
from dcp_attention.vllm.refusals import refuse_groups, refuse_unsupported
from dcp_attention.vllm.scheduler import SchedulerSide
from dcp_attention.vllm.worker import WorkerSide

logger = init_logger(__name__)


class DCPConnector(KVConnectorBase_V1):
    """vLLM has one beside its scheduler and one beside its model, which may be in two processes.

    It moves no blocks: keys and values go to the cluster as attention computes. What it brings is which request a row
    of a batch is of, and what the cluster has of it.
    """

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        """Connects; ``DCP_TLS_*`` in the environment has this client's identity, as for any other.

        Raises:
            Unsupported: This vLLM cannot be served.
            ServiceError: The cluster cannot be reached.
        """
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        refuse_unsupported(vllm_config)
        refuse_groups(kv_cache_config)
        self._options = Options.of(vllm_config)
        self._cluster = Cluster.connect(self._options.endpoint, retry_for=self._options.retry_for)
        if role == KVConnectorRole.SCHEDULER:
            # The worker, which has registered the model, comes first.
            model = self._cluster.model(self._options.model_name(vllm_config))
            self._life = Life(self._options, self._cluster, model)
            self._scheduler = SchedulerSide(self._options, self._cluster, model, self._life)

    @property
    def requires_kv_delivery(self) -> bool:
        """Does nothing: a preempted request continues where it was."""
        return False

    # Beside the model.

    @property
    def worker(self) -> WorkerSide:
        """The interface for attention."""
        return self._worker

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        """Registers the model, now that its layers and weights are loaded."""
        config = self._vllm_config
        layers = attention_layers(config)
        revision = self._options.model_revision(config)
        description = describe(layers, config.model_config.dtype, revision, self._options.kv_format)
        model = self._cluster.register_model(self._options.model_name(config), description)
        self._worker = WorkerSide(self._cluster, layers)
        logger.info("Keys and values of %d layers are in model `%s` of the cluster.", len(layers), model.name)

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        """Opens and closes sequences before the step: `start_load_kv` may be called after it."""
        super().bind_connector_metadata(connector_metadata)
        assert isinstance(connector_metadata, Plan)
        self._worker.begin(connector_metadata)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Does nothing: there is nothing to load."""

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Does nothing: there is nothing to load."""

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        """The layer's step has saved it."""

    def wait_for_save(self) -> None:
        """Commits the tokens that the step computed. vLLM also calls it after a step that has failed."""
        self._worker.commit()

    def shutdown(self) -> None:
        """Keeps the sequences of running requests for later matches, and disconnects."""
        if hasattr(self, "_worker"):
            self._worker.close()
        if hasattr(self, "_life"):
            # The worker is shut down first.
            self._life.end()
        self._cluster.close()

    # Beside the scheduler.

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        """How many tokens of a request the cluster has, beyond those that vLLM has, which are none."""
        return self._scheduler.matched_tokens(request) - num_computed_tokens, False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """A request starts, or continues after a preemption."""
        self._scheduler.admit(request, blocks.get_block_ids()[0][0], num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> Plan:
        """A step's plan for the worker."""
        return self._scheduler.next_plan(scheduler_output.num_scheduled_tokens)

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """A request has ended; its blocks hold nothing and are free immediately."""
        self._scheduler.finish(request.request_id)
        return False, None
