# SPDX-License-Identifier: Apache-2.0

"""Every way to generate, on small random models: the same tokens as with a cache of transformers' own."""

from __future__ import annotations

import copy
import secrets
from typing import TYPE_CHECKING, Any, cast

import dcp_support
import pytest
import torch
from huggingface.support import generate, ids, padded, small

from dcp_attention import Cluster, InvalidRequest, RetryableError
from dcp_attention.transformers import DCPCache, served

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Windows, soft caps and sinks, layers that share keys and values, two head dims, latents.
KINDS = ["llama", "mistral", "gemma2", "gpt_oss", "gemma4_text", "deepseek_v3"]


def name() -> str:
    return f"test-{secrets.token_hex(6)}"


def own_and_daemons(
    architecture: str, seed: int, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedModel]:
    return (
        small(architecture, attention="eager", dtype=dtype, seed=seed),
        small(architecture, attention="dcp", dtype=dtype, seed=seed),
    )


@pytest.mark.parametrize("architecture", KINDS)
def test_rows_of_different_lengths_in_one_step(architecture: str, two: Cluster) -> None:
    seed, numbers = dcp_support.seeded()
    own, daemons = own_and_daemons(architecture, seed)
    batch = padded([numbers.integers(3, 500, length).tolist() for length in (5, 41, 2, 30)])
    cache = DCPCache(two, name())
    assert torch.equal(generate(own, batch), generate(daemons, batch, past_key_values=cache))
    assert cache.names[0].endswith("/0")
    assert [two.status(two.open(row)).length for row in cache.names] == [5 + 15, 41 + 15, 2 + 15, 30 + 15]


def test_chunked_prefill_of_a_batch(two: Cluster) -> None:
    seed, numbers = dcp_support.seeded()
    own, daemons = own_and_daemons("gemma2", seed)
    # The first chunks of the short rows are padding alone.
    batch = padded([numbers.integers(3, 500, length).tolist() for length in (3, 60, 17)])
    found = generate(daemons, batch, prefill_chunk_size=8, past_key_values=DCPCache(two, name()))
    assert torch.equal(generate(own, batch), found)


def test_sampling_with_several_answers(llama: PreTrainedModel, two: Cluster) -> None:
    seed, _ = dcp_support.seeded()
    own = small("llama", attention="eager")
    options = {"do_sample": True, "num_return_sequences": 3, "top_k": 20}
    torch.manual_seed(seed)
    expected = generate(own, ids(20, seed), **options)
    torch.manual_seed(seed)
    assert torch.equal(expected, generate(llama, ids(20, seed), past_key_values=DCPCache(two, name()), **options))


@pytest.mark.parametrize("architecture", ["llama", "gemma4_text"])
def test_beams(architecture: str, two: Cluster) -> None:
    seed, _ = dcp_support.seeded()
    own, daemons = own_and_daemons(architecture, seed)
    cache = DCPCache(two, name(), commit_every=1000)
    expected = generate(own, ids(20, seed), num_beams=4)
    assert torch.equal(expected, generate(daemons, ids(20, seed), num_beams=4, past_key_values=cache))
    # Beams that fell behind are closed, and forks of tokens that are not committed are made without a commit.
    stored = {
        sequence.name for sequence in two.sequences() if sequence.name.split("/")[0] == cache.names[0].split("/")[0]
    }
    assert stored == set(cache.names)
    assert all(two.status(two.open(row)).committed == 20 for row in cache.names)
    cache.delete()
    assert not stored & {sequence.name for sequence in two.sequences()}


@pytest.mark.parametrize("long", ["a" * 255, "\N{GREEK SMALL LETTER ALPHA}" * 127])
def test_forks_of_long_names(long: str, llama: PreTrainedModel, two: Cluster) -> None:
    """A fork's name has 13 bytes of its own."""
    seed, _ = dcp_support.seeded()
    expected = generate(small("llama", attention="eager"), ids(20, seed), num_beams=2)
    cache = DCPCache(two, [long, f"{long[1:]}b"])
    assert torch.equal(expected, generate(llama, ids(20, seed), num_beams=2, past_key_values=cache))
    assert all(one.startswith(long[:100]) for one in copy.deepcopy(cache).names)
    cache.delete()
    with pytest.raises(InvalidRequest, match="1 to 255 bytes"):
        DCPCache(two, long + "bc")


def test_rows_that_are_dropped_while_a_rank_is_away(llama: PreTrainedModel) -> None:
    """What cannot be closed is closed later; the rows are reordered once."""
    seed, _ = dcp_support.seeded()
    own, rows = small("llama", attention="eager"), ids(20, seed, 3)
    with dcp_support.cluster(2) as cluster, Cluster.connect(cluster.endpoint, retry_for=1) as client:
        cache = DCPCache(client, "rows")
        with torch.no_grad():
            llama(rows, past_key_values=cache)
        cluster.kill("rank-1")
        cache.batch_select_indices(torch.tensor([1, 2]))
        assert cache.names == ("rows/1", "rows/2")
        with pytest.raises(RetryableError):
            cache.close()
        cluster.start()
        client.topology(60)
        cache.reorder_cache(torch.tensor([1, 0]))
        assert {sequence.name for sequence in client.sequences()} == {"rows/1", "rows/2"}
        with torch.no_grad():
            found = llama(ids(2, seed + 1, 2), past_key_values=cache).logits
            expected = own(torch.cat([rows[[2, 1]], ids(2, seed + 1, 2)], 1)).logits[:, -2:]
        torch.testing.assert_close(found, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


def test_deleting_what_is_gone(llama: PreTrainedModel, two: Cluster) -> None:
    cache = DCPCache(two, name())
    generate(llama, ids(20, 1, 2), past_key_values=cache)
    rows = cache.names
    two.close_sequences([rows[0]])
    cache.delete()
    assert not set(rows) & {sequence.name for sequence in two.sequences()}
    # And a new conversation of that name.
    expected = generate(small("llama", attention="eager"), ids(20, 2, 2))
    assert torch.equal(generate(llama, ids(20, 2, 2), past_key_values=cache), expected)


def test_crop_takes_both_signs(llama: PreTrainedModel, two: Cluster) -> None:
    """What is negative is removed, as everywhere; what is positive stays, as before transformers 5.18."""
    cache = DCPCache(two, name())
    with torch.no_grad():
        llama(ids(30, 1), past_key_values=cache)
    for crop, left in ((0, 30), (-4, 26), (30, 26), (20, 20), (torch.tensor(-3), 17), (-100, 0)):
        cache.crop(crop)  # type: ignore[arg-type]
        assert type(cache.get_seq_length()) is int
        assert (cache.get_seq_length(), two.status(two.open(cache.names[0])).length) == (left, left)


@pytest.mark.parametrize("architecture", KINDS)
def test_prompt_lookup(architecture: str, two: Cluster) -> None:
    seed, _ = dcp_support.seeded()
    own, daemons = own_and_daemons(architecture, seed)
    prompt = ids(15, seed).repeat(1, 3)
    cache = DCPCache(two, name())
    expected = generate(own, prompt)
    assert torch.equal(expected, generate(daemons, prompt, prompt_lookup_num_tokens=4, past_key_values=cache))
    # What was not accepted is cut, on the ranks too.
    cache.commit()
    sequence = two.open(cache.names[0])
    length = two.status(sequence).length
    assert 45 + 14 <= length <= 45 + 16
    assert two.token_ids(sequence).tolist() == expected[0, :length].tolist()


def test_an_assistant(llama: PreTrainedModel, two: Cluster) -> None:
    seed, _ = dcp_support.seeded()
    expected = generate(small("llama", attention="eager"), ids(30, seed))
    cache = DCPCache(two, name())
    # One that mostly agrees and one that never does: tokens are accepted, and taken back.
    for assistant in (small("llama", attention="eager"), small("llama", attention="eager", seed=2)):
        found = generate(llama, ids(30, seed), assistant_model=assistant, past_key_values=cache)
        assert torch.equal(expected, found)
        cache = DCPCache(two, name())


@pytest.mark.parametrize("architecture", KINDS)
def test_bf16(architecture: str, two: Cluster) -> None:
    from dcp_attention.check.compare import compare_model

    seed, numbers = dcp_support.seeded()
    # Which experts a router chooses a rounding can change, and with them all logits: here it chooses all, or there
    # are none.
    experts = {"gpt_oss": {"num_experts_per_tok": 4}, "deepseek_v3": {"first_k_dense_replace": 4}}.get(architecture, {})
    model = small(architecture, attention="eager", dtype=torch.bfloat16, seed=seed, **experts)
    # Random models are undecided between tokens, and bf16 decides by its rounding: ties are allowed, differences are
    # not.
    report = compare_model(
        architecture, model, two, [numbers.integers(3, 500, length).tolist() for length in (10, 90)], tokens=12
    )
    assert report.verdict in ("equal", "tied"), report


def test_latents_that_cannot_be_absorbed(two: Cluster) -> None:
    """With a bias keys are no product of latents and weights: all heads' keys and values are stored."""
    seed, _ = dcp_support.seeded()
    own, daemons = own_and_daemons("deepseek_v3", seed)
    for model in (own, daemons):
        torch.manual_seed(seed)
        for module in model.modules():
            up = getattr(module, "kv_b_proj", None)
            if up is not None:
                up.bias = torch.nn.Parameter(torch.randn(up.out_features), requires_grad=False)
    assert own.model.layers[0].self_attn.kv_b_proj.bias is not None
    expected = generate(own, ids(70, seed))
    assert torch.equal(expected, generate(daemons, ids(70, seed), past_key_values=DCPCache(two, name())))
    facts = served(daemons)
    assert not facts.latents
    assert {(kind.kv_heads, kind.leading_values) for kind in facts.description.layers} == {(8, False)}


def test_logits_of_a_forward_pass(two: Cluster) -> None:
    seed, _ = dcp_support.seeded()
    own, daemons = own_and_daemons("gpt_oss", seed)
    cache = DCPCache(two, name())
    with torch.no_grad():
        expected = own(ids(50, seed)).logits
        found = torch.cat(
            [daemons(part, past_key_values=cache).logits for part in ids(50, seed).split([30, 1, 19], 1)], 1
        )
    # Sums of f32 in another order: some 1e-6 of the largest logit after four layers; a wrong mask or sink is tenths
    # of it.
    torch.testing.assert_close(found, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


def test_embeddings_instead_of_ids(llama: PreTrainedModel, two: Cluster) -> None:
    seed, _ = dcp_support.seeded()
    embeds = llama.get_input_embeddings()(ids(20, seed)).detach()
    cache = DCPCache(two, name())
    expected = generate(small("llama", attention="eager"), ids(20, seed))
    found = cast("Any", llama).generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(1, 20),
        max_new_tokens=16,
        min_new_tokens=16,
        do_sample=False,
        past_key_values=cache,
    )
    assert torch.equal(expected[:, 20:], found)
    cache.commit()
    status = two.status(two.open(cache.names[0]))
    assert (status.committed, status.token_ids) == (35, 0)


@pytest.mark.parametrize("of", ["", "model"])
def test_embeddings_that_were_ids(llama: PreTrainedModel, two: Cluster, of: str) -> None:
    """Embedded outside a forward pass, as a prompt is that an image or learnt embeddings are put into."""
    seed, _ = dcp_support.seeded()
    cache = DCPCache(two, name(), model=llama)
    embeds = llama.get_input_embeddings()(ids(20, seed)).detach().clone()
    embeds[:, 5:15] = torch.randn(1, 10, 64)
    with torch.no_grad():
        llama.get_submodule(of)(inputs_embeds=embeds, past_key_values=cache)
    cache.commit()
    status = two.status(two.open(cache.names[0]))
    assert (status.committed, status.token_ids) == (20, 0)
    # Emptied, it takes ids again.
    cache.reset()
    with torch.no_grad():
        llama.get_submodule(of)(input_ids=ids(20, seed), past_key_values=cache)
    cache.commit()
    assert two.token_ids(two.open(cache.names[0])).tolist() == ids(20, seed)[0].tolist()
