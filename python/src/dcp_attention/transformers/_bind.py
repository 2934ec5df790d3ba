# SPDX-License-Identifier: Apache-2.0

"""Which model a cache is used with, and which tokens go through it.

Generation hands a cache to a model, never the model to the cache. A cache that was not told its model watches which
`PreTrainedModel` calls it the first time; the watch ends there.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.nn.modules import module as torch_module
from transformers import PreTrainedModel

from dcp_attention.transformers.errors import NotServed

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle


class TokenWatch:
    """The token ids that go through a model's embedding; one for each model, for its lifetime."""

    _all: ClassVar[weakref.WeakKeyDictionary[PreTrainedModel, TokenWatch]] = weakref.WeakKeyDictionary()

    def __init__(self, model: PreTrainedModel) -> None:
        # By thread, and plain values: a model is copied and saved together with its hooks.
        self._last: dict[int, torch.Tensor | None] = {}
        self._inside: dict[int, int] = {}
        self._positions: dict[int, torch.Tensor | None] = {}
        self._unnamed = {
            token
            for name in ("image_token_id", "audio_token_id", "video_token_id", "image_token_index")
            if (token := getattr(model.config, name, None)) is not None
        }
        model.get_input_embeddings().register_forward_pre_hook(self._note)
        # A model without its head is one that can be called, too.
        for part in model.modules():
            if isinstance(part, PreTrainedModel):
                part.register_forward_pre_hook(self._enter, with_kwargs=True)
                part.register_forward_hook(self._leave, always_call=True)

    @classmethod
    def of(cls, model: PreTrainedModel) -> TokenWatch:
        """The watch of a model."""
        if model not in cls._all:
            cls._all[model] = cls(model)
        return cls._all[model]

    def _enter(self, module: torch.nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Forgets what was embedded before the forward pass, to be changed and passed as embeddings."""
        thread = threading.get_ident()
        # A pass that Ctrl-C ended was not left. The same part is not inside itself.
        if self._inside.setdefault(thread, id(module)) == id(module):
            self._last.pop(thread, None)
            self._positions[thread] = options.get("position_ids")

    def _leave(self, module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        thread = threading.get_ident()
        if self._inside.get(thread) == id(module):
            del self._inside[thread]
            self._positions.pop(thread, None)

    def _note(self, module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        self.note(args[0] if args else None)

    def note(self, ids: torch.Tensor | None) -> None:
        """Takes ids as those that passed last."""
        self._last[threading.get_ident()] = ids

    def take(self, rows: int, tokens: int) -> list[list[int]] | None:
        """The ids of the forward pass that this thread is in, for each row of the batch; ``None`` where they do not
        say what the tokens are: embeddings were passed instead, or the place of an image.
        """
        ids = self._last.pop(threading.get_ident(), None)
        if ids is None or ids.shape != (rows, tokens):
            return None
        taken: list[list[int]] = ids.tolist()
        return None if self._unnamed and any(self._unnamed.intersection(row) for row in taken) else taken

    def positions(self) -> torch.Tensor | None:
        """The positions that were passed to the forward pass that this thread is in, if any were."""
        return self._positions.get(threading.get_ident())


class ModelWatch:
    """Watches which models this thread is in, until `end`."""

    def __init__(self) -> None:
        self._inside = threading.local()
        self._handles: list[RemovableHandle] = [
            torch_module.register_module_forward_pre_hook(self._enter),
            torch_module.register_module_forward_hook(self._leave, always_call=True),
        ]

    def _enter(self, module: torch.nn.Module, args: Any) -> None:
        if isinstance(module, PreTrainedModel):
            if self._models and not _is_part(module, self._models[-1]):
                self._models.clear()  # Ctrl-C ended that model's forward pass, which was not left
            if not self._models:
                self._inside.embedded = {}
            self._models.append(module)
        elif isinstance(module, torch.nn.Embedding) and self._models and args:
            self._inside.embedded[module] = args[0]

    def _leave(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        if self._models and self._models[-1] is module:
            self._models.pop()

    @property
    def _models(self) -> list[PreTrainedModel]:
        if not hasattr(self._inside, "models"):
            self._inside.models = []
        models: list[PreTrainedModel] = self._inside.models
        return models

    def end(self) -> None:
        """Stops watching, and forgets: a forward pass that it ends in the middle of leaves no model behind."""
        for handle in self._handles:
            handle.remove()
        self._inside = threading.local()

    def caller(self) -> tuple[PreTrainedModel, torch.Tensor | None]:
        """The model whose forward pass this thread is in, the outermost, and the token ids that it has embedded.

        Raises:
            NotServed: It is in none.
        """
        if not self._models:
            raise NotServed(
                "The cache is not used by a transformers model whose forward pass began after the cache was made; "
                "pass the model: DCPCache(cluster, name, model=model)."
            )
        model = self._models[0]
        return model, self._inside.embedded.get(model.get_input_embeddings())


def _is_part(module: torch.nn.Module, whole: torch.nn.Module) -> bool:
    return module is not whole and any(part is module for part in whole.modules())
