# SPDX-License-Identifier: Apache-2.0

"""What the daemons cannot compute is refused before a token is generated, with what was found."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import dcp_support
import pytest
import torch
from huggingface.support import generate, ids, padded, small
from transformers import DynamicCache, EncoderDecoderCache
from transformers.masking_utils import create_causal_mask

from dcp_attention.transformers import DCPCache, NotServed, cache_argument
from dcp_attention.transformers._versions import require_served

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dcp_attention import Cluster


@pytest.fixture
def cache(two: Cluster) -> DCPCache:
    return DCPCache(two, f"refused-{secrets.token_hex(6)}")


@pytest.mark.parametrize(
    ("architecture", "attention", "found"),
    [
        ("llama4_text", "dcp", "not causal within 24 tokens: token 24 does not see token 1"),
        ("qwen3_next", "dcp", "keeps a state of one size"),
        ("mamba", "dcp", "keeps a state of one size"),
        ("bloom", "dcp", "`baddbmm` on keys or values"),
        ("mpt", "dcp", "`matmul` on keys or values"),
        ("falcon", "eager", "computes attention with `eager`"),
        ("llama", "sdpa", "computes attention with `sdpa`"),
    ],
)
def test_architectures(architecture: str, attention: str, found: str, cache: DCPCache) -> None:
    model = small(architecture, attention=attention)
    options: dict[str, Any] = {cache_argument(model): cache}
    with pytest.raises(NotServed, match=found):
        generate(model, ids(10, 1), **options)
    assert not [one for one in cache.cluster.sequences() if one.name == cache.names[0]]


def test_own_code_for_attention_in_one_layer_of_one_pass(two: Cluster) -> None:
    """Not even the first product is computed: there is no second layer and no next pass that could tell."""
    with pytest.raises(NotServed, match="in code of its own"), torch.no_grad():
        small("mpt", n_layers=1)(ids(1, 1), past_key_values=DCPCache(two, f"refused-{secrets.token_hex(6)}"))


def test_an_update_without_a_step(llama: PreTrainedModel, cache: DCPCache) -> None:
    generate(llama, ids(5, 1), past_key_values=cache)
    keys = torch.zeros(1, 2, 1, 16)
    cache.update(keys, keys, 0)
    with pytest.raises(NotServed, match=r"Layer 0 passed keys and values .* did not call"):
        cache.update(keys, keys, 1)
    # What was taken in by some layers is taken back, and the conversation goes on.
    more = ids(40, 1)
    cache.crop(-cache.get_seq_length())
    assert torch.equal(generate(llama, more, past_key_values=cache), generate(small("llama", attention="eager"), more))


class Masks:
    """Overlays that models add to causal masks."""

    @staticmethod
    def prefix(batch_idx: Any, head_idx: Any, q_idx: Any, kv_idx: Any) -> Any:
        return kv_idx < 4

    @staticmethod
    def dilated(batch_idx: Any, head_idx: Any, q_idx: Any, kv_idx: Any) -> Any:
        return (q_idx - kv_idx) % 2 == 0


def test_masks_that_are_not_causal(llama: PreTrainedModel) -> None:
    embeds, config = torch.zeros(1, 10, 64), llama.config
    with pytest.raises(NotServed, match="token 0 sees token 1"):
        create_causal_mask(config, embeds, None, None, or_mask_function=Masks.prefix)
    with pytest.raises(NotServed, match="token 1 does not see token 0"):
        create_causal_mask(config, embeds, None, None, and_mask_function=Masks.dilated)
    blocks = torch.tensor([[-1, -1, 0, 0, 0, -1, -1, -1, -1, -1]])
    with pytest.raises(NotServed, match="token 2 sees token 3"):
        create_causal_mask(config, embeds, None, None, block_sequence_ids=blocks)
    packed = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5]])
    with pytest.raises(NotServed, match="does not see"):
        create_causal_mask(config, embeds, None, None, position_ids=packed)
    with pytest.raises(NotServed, match="on the left"):
        create_causal_mask(config, embeds, torch.tensor([[1] * 8 + [0] * 2]), None)
    mask = create_causal_mask(config, embeds, None, None)
    with pytest.raises(NotServed, match="computes with its attention mask"):
        mask + torch.zeros(10)
    with pytest.raises(NotServed, match="computes with its attention mask"):
        mask[:, :, :5]


def test_a_mask_of_the_callers(llama: PreTrainedModel, cache: DCPCache) -> None:
    with pytest.raises(NotServed, match="a mask of its own, or the caller"), torch.no_grad():
        llama(ids(5, 1), attention_mask=torch.ones(1, 1, 5, 5, dtype=torch.bool), past_key_values=cache)
    bidirectional = small("llama", is_causal=False)
    with pytest.raises(NotServed, match="not causal"):
        generate(bidirectional, ids(5, 1), past_key_values=DCPCache(cache.cluster, cache.names[0]))


def test_padding_that_changes(llama: PreTrainedModel, cache: DCPCache) -> None:
    batch = padded([[5, 6, 7], [8, 9, 10, 11, 12]])
    answers = generate(llama, batch, past_key_values=cache)
    more = {"input_ids": answers, "attention_mask": torch.ones_like(answers)}
    more["attention_mask"][0, 0] = 0
    with pytest.raises(NotServed, match="began with 2"):
        generate(llama, more, past_key_values=cache)


def test_no_cache_behind_the_keys(llama: PreTrainedModel) -> None:
    with pytest.raises(NotServed, match="without a DCP cache"):
        generate(llama, ids(5, 1), use_cache=False)
    with pytest.raises(NotServed, match="without a DCP cache"):
        generate(llama, ids(5, 1))


def test_an_encoder(two: Cluster) -> None:
    from transformers import AutoModelForSeq2SeqLM, BartConfig

    sizes: dict[str, Any] = {
        "d_model": 64,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
    }
    config = BartConfig(vocab_size=100, encoder_ffn_dim=64, decoder_ffn_dim=64, **sizes)
    model = AutoModelForSeq2SeqLM.from_config(config, attn_implementation="dcp").eval()
    cache = EncoderDecoderCache(DCPCache(two, f"refused-{secrets.token_hex(6)}"), DynamicCache())
    with pytest.raises(NotServed):
        generate(model, ids(5, 1) % 100, past_key_values=cache)


def test_training(two: Cluster, cache: DCPCache) -> None:
    model = small("llama", attention_dropout=0.1)
    with pytest.raises(NotServed, match="no_grad"):
        model(ids(5, 1), past_key_values=cache)
    with torch.no_grad():
        model(ids(5, 1), past_key_values=cache)
        model.train()
        with pytest.raises(NotServed, match=r"drops out 0\.1"):
            model(ids(5, 1), past_key_values=cache)


def test_weights_of_attention(llama: PreTrainedModel, cache: DCPCache) -> None:
    with pytest.raises(NotServed, match="output_attentions"), torch.no_grad():
        llama(ids(5, 1), past_key_values=cache, output_attentions=True)
    # A refusal leaves the cache as it was.
    assert torch.equal(
        generate(llama, ids(5, 1), past_key_values=cache), generate(small("llama", attention="eager"), ids(5, 1))
    )


def test_head_dims_beyond_the_limits(two: Cluster) -> None:
    with pytest.raises(NotServed, match="Layer 0: The key head dimension 4 "):
        generate(small("llama", head_dim=4), ids(5, 1), past_key_values=DCPCache(two, "refused"))


@pytest.mark.parametrize("kv_format", ["int8", "fp8"])
def test_layers_that_bytes_cannot_keep(two: Cluster, kv_format: str) -> None:
    latent = small("deepseek_v2")
    with pytest.raises(NotServed, match=rf"{kv_format} cannot keep layer 0, whose values are the first 32 dimensions"):
        generate(latent, ids(5, 1), past_key_values=DCPCache(two, "refused", kv_format=kv_format))
    with pytest.raises(NotServed, match=rf"{kv_format} cannot keep layer 0, of dimensions 10 and 10"):
        generate(small("llama", head_dim=10), ids(5, 1), past_key_values=DCPCache(two, "refused", kv_format=kv_format))


@pytest.mark.parametrize("release", ["4.57.6", "5.14.1", "6.0.0.dev0"])
def test_other_releases_of_transformers(release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require_served()
    monkeypatch.setattr("transformers.__version__", release)
    with pytest.raises(ImportError, match=rf"needs (.*), and this is transformers {release}") as refused:
        require_served()
    # The same as the package requires.
    wanted = str(refused.value).split("'")[1]
    assert f'"{wanted}"' in (dcp_support.REPOSITORY / "python/pyproject.toml").read_text()


def test_batches_of_another_size(llama: PreTrainedModel, cache: DCPCache) -> None:
    generate(llama, ids(5, 1, 2), past_key_values=cache)
    with pytest.raises(ValueError, match="3 rows and the cache 2"):
        generate(llama, ids(50, 1, 3), past_key_values=cache)
