# SPDX-License-Identifier: Apache-2.0

"""An attention backend of vLLM's that asks a cluster: one step a layer for all requests of a batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

import torch
from vllm.distributed.kv_transfer import get_kv_transfer_group, has_kv_transfer_group
from vllm.v1.attention.backend import AttentionBackend, AttentionImpl, AttentionMetadataBuilder, AttentionType
from vllm.v1.kv_cache_interface import AttentionSpec, FullAttentionSpec, SlidingWindowSpec, replace_as

from dcp_attention import Entry
from dcp_attention.vllm.versions import Unsupported
from dcp_attention.vllm.worker import WorkerSide


class DCPAttentionBackend(AttentionBackend):
    """Named in vLLM's registry as ``CUSTOM``."""

    supported_dtypes: ClassVar[list[torch.dtype]] = [torch.float16, torch.bfloat16, torch.float32]
    supported_kv_cache_dtypes: ClassVar[list[str]] = ["auto", "float16", "bfloat16"]

    @staticmethod
    def get_name() -> str:
        """A member of vLLM's registry."""
        return "CUSTOM"

    @staticmethod
    def get_impl_cls() -> type[DCPAttentionImpl]:
        """The class that computes a layer."""
        return DCPAttentionImpl

    @staticmethod
    def get_builder_cls() -> type[DCPMetadataBuilder]:
        """The class that builds a batch's metadata."""
        return DCPMetadataBuilder

    @classmethod
    def supports_sink(cls) -> bool:
        """Sinks are part of the model's description."""
        return True

    @classmethod
    def supports_sliding_window(cls) -> bool:
        """So are windows."""
        return True

    @classmethod
    def customize_spec(cls, spec: AttentionSpec) -> AttentionSpec:
        """Shrinks vLLM's own pages, which hold nothing, to four bytes a token and layer. It counts them as ever.

        Layers with a window get pages for all tokens. Otherwise vLLM takes a request's first page back when the window
        has passed it, or never gives it one, and `DCPMetadata.first_blocks` would be of two requests.
        """
        if isinstance(spec, SlidingWindowSpec):
            spec = replace_as(spec, FullAttentionSpec, drop=("sliding_window", "extra_retained_tokens"))
        return replace(spec, num_head_slots=1, state_content_bytes=4)


@dataclass
class DCPMetadata:
    """Metadata that all layers of a step share.

    Attributes:
        first_blocks: Of each row its first block in vLLM's own cache, which tells whose it is: a request keeps it for
            as long as it runs (`refuse_groups`).
        positions: Of each row's first token.
        counts: How many tokens each row has; none is padding.
    """

    first_blocks: list[int]
    positions: list[int]
    counts: list[int]

    @cached_property
    def tokens(self) -> int:
        """The number of valid rows of a tensor; the rest is padding."""
        return sum(self.counts)

    @cached_property
    def worker(self) -> WorkerSide | None:
        """The worker that calls the cluster; ``None`` while vLLM warms up with dummy requests."""
        return get_kv_transfer_group().worker if has_kv_transfer_group() else None

    @cached_property
    def entries(self) -> list[Entry]:
        """One for each request. The first layer asks: when metadata is built the worker does not know the step yet."""
        assert self.worker is not None
        return self.worker.entries(self.first_blocks, self.positions, self.counts)


class DCPMetadataBuilder(AttentionMetadataBuilder[DCPMetadata]):
    """Builds metadata once per step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As vLLM calls it, whose own is abstract."""
        super().__init__(*args, **kwargs)

    def build(self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False) -> DCPMetadata:
        """The metadata of a batch.

        Raises:
            Unsupported: Its attention is not causal.
        """
        batch = common_attn_metadata
        if batch.causal is not True:
            raise Unsupported("This batch's attention is not causal, which DCPConnector cannot serve.")
        counts = [end - start for start, end in pairwise(batch.query_start_loc_cpu.tolist())]
        ends = batch.seq_lens[: len(counts)].tolist()
        positions = [end - count for end, count in zip(ends, counts, strict=True)]
        return DCPMetadata(batch.block_table_tensor[: len(counts), 0].tolist(), positions, counts)


class DCPAttentionImpl(AttentionImpl[DCPMetadata]):
    """The attention of one layer.

    Attributes:
        softcap: c of ``c tanh(score / c)``; ``None`` for none.
        window: How many tokens a query sees, its own counted; ``None`` for all.
        sinks: A logit for each query head; ``None`` for none.
    """

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int | None = None,
        alibi_slopes: list[float] | None = None,
        sliding_window: int | None = None,
        kv_cache_dtype: str = "auto",
        logits_soft_cap: float | None = None,
        attn_type: str = AttentionType.DECODER,
        kv_sharing_target_layer_name: str | None = None,
        sinks: torch.Tensor | None = None,
        **others: Any,
    ) -> None:
        """As vLLM calls it.

        Raises:
            Unsupported: The cluster has no such attention.
        """
        if alibi_slopes is not None:
            raise Unsupported(
                "The model adds a bias to every score that grows with the distance (ALiBi); DCPConnector has none."
            )
        if attn_type != AttentionType.DECODER:
            raise Unsupported(
                f"Attention of type {AttentionType(attn_type).value} is not causal, and DCPConnector serves no other."
            )
        if kv_sharing_target_layer_name is not None:
            raise Unsupported(
                f"A layer uses the keys and values of {kv_sharing_target_layer_name}, which DCPConnector cannot serve."
            )
        if others:
            raise Unsupported(
                f"The model's attention has {', '.join(sorted(others))}, which DCPConnector does not know."
            )
        self.num_heads = num_heads
        self.head_size = head_size
        self.scale = float(scale)
        self.num_kv_heads = num_kv_heads or num_heads
        self.kv_cache_dtype = kv_cache_dtype
        self.softcap = logits_soft_cap or None
        self.window = sliding_window
        self.sinks = sinks

    def forward(
        self,
        layer: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: DCPMetadata | None,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Appends a batch's keys and values and attends to everything that its requests have.

        Args:
            layer: vLLM's layer; its name tells which it is.
            query: ``[tokens, Hq, Dk]``, padded rows included, in the model's dtype.
            key: ``[tokens, Hkv, Dk]``.
            value: ``[tokens, Hkv, Dv]``.
            kv_cache: vLLM's own, which stays as it is.
            attn_metadata: ``None`` while vLLM measures its memory.
            output: ``[tokens, Hq, Dv]``, or with heads and dimensions in one; written.
            output_scale: Of a fused quantization, which is refused.
            output_block_scale: The same.

        Returns:
            ``output``.
        """
        if output_scale is not None or output_block_scale is not None:
            raise Unsupported(
                "A quantization is fused into the attention's output, which DCPConnector does not compute."
            )
        if attn_metadata is None or attn_metadata.worker is None:
            return output.zero_()
        count = attn_metadata.tokens
        q = query[:count].view(count, self.num_heads, -1)
        k = key[:count].view(count, self.num_kv_heads, -1)
        v = value[:count].view(count, self.num_kv_heads, -1)
        answer = attn_metadata.worker.step(layer.layer_name, attn_metadata.entries, q.cpu(), k.cpu(), v.cpu())
        output[:count].view(count, self.num_heads, -1).copy_(torch.from_numpy(answer.out))
        return output
