# SPDX-License-Identifier: Apache-2.0

"""Loads a model by the name that a user gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dcp_attention.check.architectures import ARCHITECTURES, configuration, random_model

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


@dataclass(frozen=True)
class Source:
    """The source of a model.

    Attributes:
        name: A directory or a name that `from_pretrained` takes, a file of weights in GGUF, a configuration's file or a
            directory that has only one, or an architecture such as ``llama``.
        seed: Of the weights, where they are random: of a configuration or an architecture.
        layers: At most how many layers a configuration's model gets.
        trust_remote_code: Whether a model may bring code of its own.
    """

    name: str
    seed: int = 1
    layers: int = 4
    trust_remote_code: bool = False

    @property
    def has_weights(self) -> bool:
        """Whether the weights are the model's own, and not random."""
        return self.name not in ARCHITECTURES and self._config_path is None

    @property
    def _config_path(self) -> Path | None:
        path = Path(self.name)
        if path.is_file() and path.suffix == ".json":
            return path
        weights = ("*.safetensors", "*.bin", "*.gguf")
        if (path / "config.json").is_file() and not any(any(path.glob(pattern)) for pattern in weights):
            return path
        return None

    def load(self, attention: str | None, dtype: str | None) -> PreTrainedModel:
        """The model, to be evaluated.

        Args:
            attention: The attention implementation; ``None`` is what transformers chooses.
            dtype: Of the weights; ``None`` is the model's own, and f32 for random ones.

        Raises:
            OSError: There is no such model.
        """
        from transformers import AutoModelForCausalLM

        if not self.has_weights:
            return random_model(self._config(), seed=self.seed, dtype=DTYPES[dtype or "f32"], attention=attention)
        options: dict[str, Any] = {"dtype": DTYPES[dtype] if dtype else "auto", "attn_implementation": attention}
        if self.trust_remote_code:
            options["trust_remote_code"] = True
        place, file = self._place()
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(place, **file, **options).eval()
        return model

    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        from transformers import AutoTokenizer

        place, file = self._place()
        return AutoTokenizer.from_pretrained(place, **file, trust_remote_code=self.trust_remote_code)

    def _place(self) -> tuple[str, dict[str, str]]:
        path = Path(self.name)
        return (str(path.parent), {"gguf_file": path.name}) if path.suffix == ".gguf" else (self.name, {})

    def _config(self) -> PretrainedConfig:
        from transformers import AutoConfig

        if self._config_path is None:
            return configuration(self.name)
        config: PretrainedConfig = AutoConfig.from_pretrained(
            self._config_path, trust_remote_code=self.trust_remote_code
        )
        text = config.get_text_config(decoder=True)
        text.num_hidden_layers = min(text.num_hidden_layers, self.layers)
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[: text.num_hidden_layers]
        return config
