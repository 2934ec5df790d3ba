# SPDX-License-Identifier: Apache-2.0

"""Sequences to files and back."""

from __future__ import annotations

import os

import numpy as np

from dcp_attention._client.attention import Attention
from dcp_attention._client.directory import Directory
from dcp_attention._client.keeper import Keeper
from dcp_attention._client.plan import contents
from dcp_attention._client.sequence_file import SequenceFile, Writer, writing
from dcp_attention._client.stored import Stored
from dcp_attention.errors import Conflict, ServiceError
from dcp_attention.model import DType, ModelDescription
from dcp_attention.values import Commit, Entry, Sequence, Transfer

_MOVED_BYTES = 8 << 20
_UNCOMMITTED_BYTES = 256 << 20
"""Bytes that all layers of a chunk may wait on the ranks to be committed."""


def _moved_tokens(description: ModelDescription) -> int:
    """How many tokens of one layer are moved at once: some megabytes, at least one token."""
    size = description.kv_format.row_type.size
    largest = max(kind.kv_heads * (kind.key_dim + kind.own_value_dim) * size for kind in description.kinds)
    return max(_MOVED_BYTES // largest, 1)


class Transfers:
    """Export and import."""

    def __init__(self, directory: Directory, attention: Attention, stored: Stored, keeper: Keeper) -> None:
        self._directory = directory
        self._attention = attention
        self._stored = stored
        self._keeper = keeper

    async def export(self, sequence: Sequence, path: str | os.PathLike[str], dtype: DType | None) -> Transfer:
        """Writes the committed tokens of a sequence to a file."""
        description = sequence.model.description
        there = await self._stored.status(sequence)
        length = there.committed
        ids = None
        if length > 0 and there.token_ids >= length:
            ids = await self._stored.token_ids(sequence, 0, length)
        annotation = await self._stored.annotation(sequence)
        tokens = _moved_tokens(description)
        version: tuple[int, ...] | None = None
        with writing(Writer(path, sequence, length, None if ids is None else length, annotation, dtype)) as writer:
            for layer in range(len(description.layers)):
                for start in range(0, length, tokens):
                    rows = await self._stored.rows(sequence, layer, start, min(tokens, length - start))
                    if version is not None and version != rows.version:
                        raise Conflict(
                            f"Sequence `{sequence.name}` was truncated, or a rank came back, while it was exported; "
                            f"{writer.path} is not written. Export it again."
                        )
                    version = rows.version
                    writer.append_rows(f"layers.{layer}.k", rows.keys, are_keys=True)
                    if rows.values is not None:
                        writer.append_rows(f"layers.{layer}.v", rows.values, are_keys=False)
            if ids is not None:
                writer.append("token_ids", ids.astype("<u4"))
            if annotation is not None:
                writer.append("annotation", annotation)
            writer.finish()
        return Transfer(sequence, length, 0, writer.row_bytes)

    async def import_(
        self, path: str | os.PathLike[str], name: str | None, model_name: str | None, resume: bool
    ) -> Transfer:
        """Makes a sequence of a file."""
        file = SequenceFile.opened(path)
        description = file.description
        model = await self._directory.register_model(model_name or file.model, description)
        (sequence,) = await self._directory.open_many(
            [name or file.sequence], model, file.scope, description.revision, True
        )
        kept = await self._begin(file, sequence, resume)
        committed = kept
        # From the first on: what is there is compared with them.
        first_id = 0
        chunk = max(min(_moved_tokens(description), _UNCOMMITTED_BYTES // description.row_bytes), 1)
        try:
            for start in range(kept, file.length, chunk):
                end = min(start + chunk, file.length)
                for layer in range(len(description.layers)):
                    await self._append(file, sequence, layer, start, end)
                ids = None if file.token_ids is None else file.token_ids[first_id:end]
                await self._attention.commit([Commit(sequence, end, ids, None if ids is None else first_id)])
                committed = first_id = end
            if file.annotation is not None:
                await self._attention.commit([Commit(sequence, file.length, annotation=file.annotation)])
        except ServiceError as error:
            raise ServiceError.of(
                error.number,
                f"{error.message} Sequence `{sequence.name}` is committed up to {committed} of the file's "
                f"{file.length} tokens: continue with resume=True, or delete it.",
                error.rank,
            ) from error
        size = sum(rows.nbytes for rows in (*file.keys, *file.values) if rows is not None)
        return Transfer(sequence, file.length, kept, size)

    async def _begin(self, file: SequenceFile, sequence: Sequence, resume: bool) -> int:
        """How many of the file's tokens are already stored."""
        there = await self._stored.status(sequence)
        longest = max(there.committed, *there.layers)
        if longest == 0:
            return 0
        if not resume or there.committed > file.length:
            raise Conflict(
                f"Sequence `{sequence.name}` exists with {longest} tokens"
                + (f", the file has {file.length}" if resume else "; continue an interrupted import with resume=True")
                + "; import under another name, or delete it."
            )
        # What an interrupted import appended and did not commit.
        await self._keeper.persist([sequence], lambda _: self._keeper.take_over(sequence, there.committed))
        tokens = _moved_tokens(file.description)
        for layer in range(len(file.description.layers)):
            for start in range(0, there.committed, tokens):
                end = min(start + tokens, there.committed)
                await self._compare(file, sequence, layer, start, end)
        return there.committed

    async def _compare(self, file: SequenceFile, sequence: Sequence, layer: int, start: int, end: int) -> None:
        rows = await self._stored.rows(sequence, layer, start, end - start)
        kv_format = file.description.kv_format
        for there, rows_there, are_keys in (
            (rows.keys, file.keys[layer], True),
            (rows.values, file.values[layer], False),
        ):
            if there is None or rows_there is None:
                continue
            wanted = rows_there.read_back(start, end, kv_format, are_keys=are_keys)
            if not np.array_equal(there.view(np.uint8), wanted.view(np.uint8)):
                raise Conflict(
                    f"Sequence `{sequence.name}` is not the beginning of {file.path}: layer {layer} differs in tokens "
                    f"{start}..<{end}; import under another name, or delete it first."
                )

    async def _append(self, file: SequenceFile, sequence: Sequence, layer: int, start: int, end: int) -> None:
        keys, values = file.keys[layer].rows(start, end), file.values[layer]
        part = None if values is None else values.rows(start, end)
        entry = Entry(sequence, start, end - start)
        keeps = self._keeper.retry_for > 0
        await self._attention.run(contents(layer, [entry], None, keys, part, keeps=keeps))
