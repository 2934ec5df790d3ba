# SPDX-License-Identifier: Apache-2.0

"""A transformers cache whose keys and values are in a cluster: `DCPCache`."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dcp_attention import TokensLost
from dcp_attention.tensors import torch_array
from dcp_attention.transformers._bind import ModelWatch, TokenWatch
from dcp_attention.transformers._latent import Latents
from dcp_attention.transformers._look import NoStateCache, attention_of, not_attended, served
from dcp_attention.transformers._pass import Pass
from dcp_attention.transformers._rows import Row, Rows, fork_name, is_counted, token_lists
from dcp_attention.transformers._sealed import Update
from dcp_attention.transformers.errors import NotServed

if TYPE_CHECKING:
    from collections.abc import Sequence as SequenceOf
    from types import TracebackType

    import numpy.typing as npt
    from transformers import PreTrainedModel
    from typing_extensions import Self

    from dcp_attention import CacheFormat, Cluster
    from dcp_attention.transformers._attention import AttentionCall
    from dcp_attention.transformers._look import ServedModel


class DCPCache(NoStateCache):
    """The KV cache of a conversation, or of a batch of them, in a cluster that outlives this process.

    Pass it to `generate`, or to a model's forward pass, as ``past_key_values``, to a model that was loaded with
    ``attn_implementation="dcp"``::

        model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="dcp")
        with DCPCache(cluster, "chat-1") as cache:
            model.generate(**tokenizer(text, return_tensors="pt"), past_key_values=cache)

    A name that is stored is taken up where it was committed: `generate` then computes what follows. As with any
    cache, the tokens that are passed must begin with those that the cache has; with ``tokens`` that is made sure.

    Tokens are committed, with their ids, after the first forward pass, then every ``commit_every`` tokens, at the
    beginning of the next forward pass, when nothing can take them back for nothing; and by `commit`, `close` and the
    end of ``with``.

    Use it in one thread at a time.

    Attributes:
        cluster: Where its keys and values are.
    """

    def __init__(
        self,
        cluster: Cluster,
        name: str | SequenceOf[str],
        *,
        model: PreTrainedModel | None = None,
        tokens: Any = None,
        scope: str = "",
        revision: str | None = None,
        kv_format: CacheFormat | str | None = None,
        commit_every: int = 16,
    ) -> None:
        """Takes up the sequences of that name, or prepares to make them.

        Args:
            cluster: The cluster.
            name: Of the sequence. For a batch a name for each row, or one: its rows are then NAME/0, NAME/1 and so on.
            model: The model that will use it; ``None`` is the first that does.
            tokens: The token ids that will be passed, for one row or a list for each, without padding; tensors are
                taken too. A stored sequence is cut to what it has in common with them, when the model is known to be
                the one that made it. ``None`` takes it up as it is.
            scope: Of new sequences: who may find them by their tokens.
            revision: What identifies the model's weights; ``None`` is a digest of a sample of them.
            kv_format: How the daemons keep keys and values, such as ``int8`` or ``fp8``, which take half of what bf16
                does; ``None`` is the model's dtype. Caches of one format are not those of another.
            commit_every: After how many tokens they are committed.

        Raises:
            NotServed: The model has a layer that the daemons cannot serve, or that the format cannot keep.
            ModelMismatch: A stored sequence is another model's, or has other weights or another format, and keeps its
                tokens. Without ``model`` the first forward pass raises this.
        """
        super().__init__()
        self.cluster = cluster
        self._rows = Rows(cluster, [name] if isinstance(name, str) else name, scope)
        self._revision = revision
        self._kv_format = kv_format
        self._commit_every = commit_every
        self._model: ServedModel | None = None
        self._tokens: TokenWatch | None = None
        self._watch: ModelWatch | None = None
        self._length = 0  # tokens in all layers, padding counted
        self._passes = 0
        self._pass: Pass | None = None
        self._waiting: Update | None = None
        facts = None if model is None else served(model, revision, kv_format)
        self._rows.take_up(
            None if tokens is None else token_lists(tokens), check=None if facts is None else facts.check
        )
        self._length = max((row.padding + row.length for row in self._rows.all), default=0)
        if model is None:
            self._await_caller()
        else:
            self._bind(model)

    @classmethod
    def matching(
        cls,
        cluster: Cluster,
        name: str,
        model: PreTrainedModel,
        tokens: Any,
        *,
        scope: str = "",
        revision: str | None = None,
        kv_format: CacheFormat | str | None = None,
        commit_every: int = 16,
    ) -> Self:
        """A cache under a new name that begins with the most of some token ids that is stored of this model, whoever
        stored it: `get_seq_length` tells how many. Blocks are shared, not copied. At least the last token is left to
        be computed.

        Raises:
            Conflict: There is a sequence of that name.
            NotServed: The model has a layer that the daemons cannot serve.
        """
        (ids,) = token_lists(tokens)
        facts = served(model, revision, kv_format)
        registered = cluster.register_model(facts.name, facts.description)
        cluster.open_matching(name, registered, ids, scope=scope, longest=len(ids) - 1)
        options = {"scope": scope, "revision": revision, "kv_format": kv_format, "commit_every": commit_every}
        return cls(cluster, name, model=model, **options)  # type: ignore[arg-type]

    # What generation asks.

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the sequences, one for each row. Beams and copies are forks with names of their own."""
        return self._rows.names

    @property
    def batch_size(self) -> int:
        """Rows, or -1 before the first forward pass."""
        return len(self._rows.all) or -1

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """How many tokens all layers have, padding counted."""
        return self._length

    def crop(self, tokens_to_remove: int) -> None:
        """Rolls back the last ``-tokens_to_remove`` tokens, as assisted decoding does with rejected ones. A positive
        number is how many tokens stay at most, as caches of transformers took it before 5.18.
        """
        count = int(tokens_to_remove)  # some releases pass a tensor, which a later += would change in place
        length = count if count > 0 else max(0, self._length + count)
        if length < self._length:
            self._end_pass()
            self._rows.cut([max(0, length - row.padding) for row in self._rows.all])
            self._length = length

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Replaces row i by row ``beam_idx[i]``, by forks."""
        self._end_pass()
        self._rows.select(beam_idx.tolist())

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps these rows; the sequences of the others are closed."""
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Makes ``repeats`` rows of each."""
        self.reorder_cache(torch.arange(len(self._rows.all)).repeat_interleave(repeats))

    def reset(self) -> None:
        """Cuts all rows to length 0."""
        self.crop(-self.get_seq_length())

    # Attention.

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes a layer's new keys and values, and hands them on to the attention function `dcp`, sealed."""
        model = self._model or self._bind_caller()
        if layer_idx not in model.layers:
            raise NotServed(f"Layer {layer_idx} has keys and values now, and had none when the model was looked at.")
        self._refuse_unattended()
        if self._pass is None or self._pass.is_complete or self._pass.failed or layer_idx in self._pass.served:
            self._pass = self._begin_pass(key_states.shape[0], key_states.shape[2])
        self._waiting = Update(self, layer_idx, key_states, value_states, self._pass.number)
        return self._waiting.seal()

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """A step, or for layers that use another's keys and values a query; called by the attention function `dcp`."""
        model, forward = self._model, self._pass
        # Layers that use another layer's keys and values may ask for the last tokens only.
        queries = call.query.shape[2]
        if (
            model is None
            or forward is None
            or call.update.number != forward.number
            or (call.mask.queries, call.mask.keys) != (queries, forward.start + forward.tokens)
            or not (queries <= forward.tokens if call.update.is_served else queries == forward.tokens)
        ):
            raise NotServed(
                f"Layer {call.update.layer} is asked for {queries} queries over keys and values that another forward "
                "pass brought, or with the mask of one. Daemons serve self attention."
            )
        index = model.layers[call.update.layer]
        latents = model.latents.get(call.update.layer)
        is_changed = call.key.data_ptr() != call.update.keys.data_ptr() or latents is not None
        if call.key.shape[2] != forward.tokens or (call.update.is_served and is_changed):
            raise NotServed(
                f"Layer {call.update.layer} attends to other keys than it passed to its cache, of {call.key.shape[2]} "
                f"tokens where the forward pass has {forward.tokens}: the daemons have those that it passed."
            )
        found, expected = attention_of(call, is_latent=latents is not None), model.description.layers[index]
        if found is not expected and found != expected:
            raise NotServed(
                f"Layer {call.update.layer} attends as {found}, and was looked at as "
                f"{expected}: attention that changes with the input cannot be served."
            )
        try:
            self._take_padding(call, forward)
            out = self._step(index, call, latents, forward)
        except TokensLost:
            # The caller is told once: the next forward pass goes on from what is left.
            self._waiting = None
            self._length, self._pass = self._rows.even(self._length), None
            raise
        except BaseException:
            call.update.is_refused = True
            raise
        if not call.update.is_served:
            call.update.is_served = True
            self._waiting = None
            forward.served.add(call.update.layer)
            if len(forward.served) == len(model.layers):
                self._length += forward.tokens
                for row in self._rows.all:
                    row.length = self._length - row.padding
                forward.is_complete = True
        return out

    def _step(self, index: int, call: AttentionCall, latents: Latents | None, forward: Pass) -> torch.Tensor:
        query = call.query if latents is None else latents.queries(call.query)
        batch, heads, tokens, _ = call.query.shape
        start = forward.start + forward.tokens - tokens
        entries = [(at, row.entry(start, tokens)) for at, row in enumerate(self._rows.all)]
        parts = [(at, entry) for at, entry in entries if entry is not None]

        def packed(tensor: torch.Tensor) -> npt.NDArray[Any]:
            """``[B, H, T, D]`` to ``[tokens, H, D]`` without padding. By numpy, whose calls cost a fifth of torch's."""
            array = torch_array(torch, tensor)
            rows = [array[at, :, array.shape[2] - entry.count :] for at, entry in parts]
            joined = rows[0] if len(rows) == 1 else np.concatenate(rows, 1)
            return joined.transpose(1, 0, 2)

        if not parts:
            return call.query.new_zeros(batch, tokens, heads, call.value.shape[-1])
        steps = [entry for _, entry in parts]
        if call.update.is_served:
            answer = self.cluster.query(index, steps, packed(query), lse=False)
        else:
            # Of the tokens before this pass, with its first step: no round trip of their own.
            commits = self._rows.commits() if forward.commits else []
            keys = packed(call.key if latents is None else latents.keys(call))
            values = packed(call.value) if latents is None else None
            answer = self.cluster.step(index, steps, packed(query), keys, values, lse=False, commits=commits)
            if forward.commits:
                self._rows.committed()
                forward.commits = False
        out = torch.from_numpy(answer.out).to(call.query.device)
        if latents is not None:
            out = latents.outputs(out[None])[0]
        if len(parts) == 1 and batch == 1 and steps[0].count == tokens:
            return out[None].to(call.query.dtype)
        padded = call.query.new_zeros(batch, tokens, heads, call.value.shape[-1])
        for (at, entry), row in zip(parts, out.split([entry.count for entry in steps]), strict=True):
            padded[at, tokens - entry.count :] = row.to(padded.dtype)
        return padded

    # Forward passes.

    def _begin_pass(self, rows: int, tokens: int) -> Pass:
        model = self._model
        assert model is not None
        assert self._tokens is not None
        ids = self._tokens.take(rows, tokens)
        self._end_pass()
        if not self._rows.all:
            self._rows.make(self.cluster.register_model(model.name, model.description), rows)
        if len(self._rows.all) != rows:
            raise ValueError(
                f"The batch has {rows} rows and the cache {len(self._rows.all)}; use a cache for each batch."
            )
        commits = any(
            row.length - row.committed >= (self._commit_every if row.committed else 1) for row in self._rows.all
        )
        self._passes += 1
        return Pass(self._passes, self._length, tokens, ids, commits)

    def _take_padding(self, call: AttentionCall, forward: Pass) -> None:
        """Learns each row's padding from the mask, and which ids are tokens, once in a forward pass."""
        if forward.has_padding:
            return
        rows, padding = self._rows.all, call.mask.padding
        for row, count in zip(rows, padding or (), strict=padding is not None):
            if row.length and row.padding != count:
                raise NotServed(
                    f"The attention mask begins with {count} tokens of padding, and sequence `{row.sequence.name}` "
                    f"with its {row.length} tokens began with {row.padding}. Pass the mask of the tokens before, "
                    "longer."
                )
            row.padding = count
        positions = self._positions(call, forward)
        for at, row in enumerate(rows):
            entry = row.entry(forward.start, forward.tokens)
            if forward.ids is None or row.ids is None:
                if row.length and row.ids is not None:
                    raise NotServed(
                        f"Sequence `{row.sequence.name}` has the ids of its {row.length} tokens, and these have "
                        "none: embeddings or images were passed. Begin another sequence with them."
                    )
                row.ids = None
            elif entry is not None and not is_counted(entry, positions, at):
                # Keys of these ids elsewhere: of use here, and for nobody who looks for the ids.
                if row.committed:
                    raise NotServed(
                        f"Sequence `{row.sequence.name}` has the ids of its {row.committed} tokens, and these do not "
                        f"follow at position {entry.position}: others would find keys of other positions by their "
                        "ids. Pass position_ids that count each row's tokens without its padding, as generate does, "
                        "or begin another sequence with them."
                    )
                row.ids = None
            elif entry is not None:
                row.ids += forward.ids[at][forward.tokens - entry.count :]
        forward.has_padding = True

    def _positions(self, call: AttentionCall, forward: Pass) -> torch.Tensor:
        """Where the model puts the tokens of a forward pass, ``[..., 1 or B, T]``."""
        assert self._tokens is not None
        positions = call.positions if call.positions is not None else self._tokens.positions()
        if positions is None:  # it counts by itself: from the cache's first on, which may be padding
            positions = torch.arange(forward.start, forward.start + forward.tokens)
        return positions.cpu() if positions.dim() > 1 else positions.cpu()[None]

    def _end_pass(self) -> None:
        """Between forward passes: all layers have all tokens, or tokens that only some have are rolled back."""
        self._refuse_unattended()
        if self._pass is not None and not self._pass.is_complete:
            # An error leaves the pass: the next call tries again.
            known, self._length = self._length, self._rows.even(self._length)
            self._pass = None
            if self._length < known:
                name = self._rows.names[0]
                raise TokensLost(
                    f"The batch of sequence `{name}` ends at {self._length} of {known} tokens, padding counted: an "
                    "outage took the others, and this client has them no longer. Pass the tokens from "
                    f"{self._length} on again.",
                    sequence=name,
                    length=self._length,
                )
        self._pass = None

    def _refuse_unattended(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            assert self._pass is not None
            self._pass.failed = True
            if not waiting.is_refused:
                raise not_attended(waiting.layer)

    # The model.

    def _await_caller(self) -> None:
        self._watch = ModelWatch()
        weakref.finalize(self, self._watch.end)  # a cache that is never used watches until it is gone

    def _bind_caller(self) -> ServedModel:
        assert self._watch is not None
        model, ids = self._watch.caller()
        facts = self._bind(model)
        self._watch.end()
        self._watch = None
        TokenWatch.of(model).note(ids)
        return facts

    def _bind(self, model: PreTrainedModel) -> ServedModel:
        facts = served(model, self._revision, self._kv_format)
        for row in self._rows.all:
            facts.check(row.sequence)
        self._rows.trim()
        self._tokens = TokenWatch.of(model)
        self._model = facts
        return facts

    # Keeping and copying.

    def commit(self) -> None:
        """Makes all tokens durable on every rank, with their ids."""
        self._end_pass()
        self._rows.commit()

    def fork(self, name: str | SequenceOf[str]) -> DCPCache:
        """A copy of the cache under another name, independent from here on; blocks are shared, not copied."""
        self._end_pass()
        if not self._rows.all:
            raise ValueError("The cache has no tokens yet; make another cache under another name.")
        return self._copy(self._rows.fork([name] if isinstance(name, str) else name))

    def __deepcopy__(self, memo: dict[int, Any]) -> DCPCache:
        """A fork with a unique name: what ``copy.deepcopy`` of a prefilled cache is for."""
        return self.fork([fork_name(row.sequence.name) for row in self._rows.all])

    def _copy(self, rows: list[Row]) -> DCPCache:
        copied = DCPCache.__new__(DCPCache)
        copied.__dict__.update(self.__dict__)
        copied._rows = Rows(self.cluster, [row.sequence.name for row in rows], rows[0].sequence.scope)
        copied._rows.all = rows
        if self._watch is not None:
            copied._await_caller()  # another model may use it, and after this cache is gone
        return copied

    def delete(self) -> None:
        """Closes its sequences, which deletes their tokens."""
        self._length, self._pass, self._waiting = 0, None, None
        self._rows.delete()

    def close(self) -> None:
        """Commits; the sequences stay, and can be opened by name or found by their tokens. Closes those of dropped
        beams and rows that could not be closed when they were dropped.
        """
        if self._watch is not None:
            self._watch.end()
            self._watch = None
        if self._rows.all:
            self.commit()
        self._rows.close_unused()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
