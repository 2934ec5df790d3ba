# SPDX-License-Identifier: Apache-2.0

"""What is stored is taken up: by its name, by its tokens, in another process."""

from __future__ import annotations

import copy
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import dcp_support
import pytest
import torch
from huggingface.support import generate, ids, padded, small
from transformers import DynamicCache

from dcp_attention import CacheFormat, Cluster, Conflict, ModelMismatch
from dcp_attention._client.session import Session
from dcp_attention._wire.requests import COMMIT
from dcp_attention.transformers import DCPCache, NotServed

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def name() -> str:
    return f"talk-{secrets.token_hex(6)}"


def test_a_conversation_goes_on(llama: PreTrainedModel, two: Cluster) -> None:
    seed, _ = dcp_support.seeded()
    own, chat = small("llama", attention="eager"), name()
    with DCPCache(two, chat) as cache:
        first = generate(llama, ids(30, seed), past_key_values=cache)
    more = torch.cat([first, ids(10, seed + 1)], 1)
    cache = DCPCache(two, chat, tokens=more)
    assert cache.get_seq_length() == 45  # the last token was generated, and not computed with
    assert torch.equal(generate(own, more), generate(llama, more, past_key_values=cache))


@pytest.mark.parametrize("kv_format", ["int8", "fp8"])
def test_a_cache_of_bytes_goes_on_with_the_same_tokens(llama: PreTrainedModel, two: Cluster, kv_format: str) -> None:
    seed, _ = dcp_support.seeded()
    prompt, whole, chat = ids(40, seed), name(), name()
    with DCPCache(two, whole, kv_format=kv_format) as cache:
        expected = generate(llama, prompt, past_key_values=cache)
    assert two.open(whole).model.description.kv_format is CacheFormat.named(kv_format)
    with DCPCache(two, chat, kv_format=kv_format) as cache:
        generate(llama, prompt[:, :25], 1, past_key_values=cache)
    with pytest.raises(ModelMismatch, match=f"in a cache of {kv_format}, .* in one of f32"):
        DCPCache(two, chat, model=llama)
    # A prefill in other chunks may round a key's last bit otherwise, and then a byte, and tokens part after a while.
    # From the same chunks they do not.
    cache = DCPCache(two, whole, model=llama, kv_format=kv_format, tokens=prompt)
    again = DCPCache.matching(two, name(), llama, prompt[0], kv_format=kv_format)
    assert cache.get_seq_length() == again.get_seq_length() == 39
    assert torch.equal(generate(llama, prompt, past_key_values=cache), generate(llama, prompt, past_key_values=again))
    assert expected.shape == (1, 56)


def test_a_commit_whose_client_died_is_on_some_ranks(
    llama: PreTrainedModel, running: dcp_support.LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed, _ = dcp_support.seeded()
    own, chat = small("llama", attention="eager"), name()
    ask_ranks = Session.ask_ranks

    async def ask_one(self: Session, request: Any, value: Any, topology: Any, ranks: Any = None) -> Any:
        return await ask_ranks(self, request, value, topology, (0,) if request is COMMIT else ranks)

    with Cluster.connect(running.endpoint) as first:
        cache = DCPCache(first, chat, commit_every=1000)
        tokens = generate(llama, ids(30, seed), past_key_values=cache)
        assert first.status(first.open(chat)).committed == 30
        with monkeypatch.context() as patch:
            patch.setattr(Session, "ask_ranks", ask_one)
            cache.commit()
        status = first.status(first.open(chat))
        assert status.committed == 30
        assert status.committed_most == cache.get_seq_length()
        more = torch.cat([tokens, ids(10, seed + 1)], 1)
        with Cluster.connect(running.endpoint) as second:
            cache = DCPCache(second, chat, tokens=more)
            assert cache.get_seq_length() == 30  # what every rank has with its ids, and not nothing
            assert torch.equal(generate(own, more), generate(llama, more, past_key_values=cache))


def test_a_conversation_that_turned_off_is_cut(llama: PreTrainedModel, two: Cluster) -> None:
    seed, _ = dcp_support.seeded()
    own, chat = small("llama", attention="eager"), name()
    with DCPCache(two, chat) as cache:
        generate(llama, ids(30, seed), past_key_values=cache)
    other = ids(40, seed)
    other[0, 20:] = ids(20, seed + 1)[0]
    cache = DCPCache(two, chat, tokens=other)
    assert cache.get_seq_length() >= 20
    assert torch.equal(generate(own, other), generate(llama, other, past_key_values=cache))
    # All of it is stored: the last token is computed anyway, for its logits.
    assert DCPCache(two, chat, tokens=other).get_seq_length() == 39


def test_a_model_that_is_refused_does_not_claim_a_conversation(llama: PreTrainedModel, two: Cluster) -> None:
    own, chat = small("llama", attention="eager"), name()
    cache = DCPCache(two, chat, commit_every=1000)
    said = generate(llama, ids(20, 1), past_key_values=cache)
    with pytest.raises(ModelMismatch):
        DCPCache(two, chat, model=small("llama", seed=2), tokens=said)
    # What was not committed is still there.
    assert torch.equal(generate(llama, said, past_key_values=cache), generate(own, said))


def test_a_cut_that_waits_for_the_model(llama: PreTrainedModel, two: Cluster) -> None:
    own, chat = small("llama", attention="eager"), name()
    with DCPCache(two, chat) as cache:
        generate(llama, ids(40, 1), past_key_values=cache)
    other = torch.cat([ids(40, 1)[:, :30], ids(10, 2)], 1)
    cache = DCPCache(two, chat, tokens=other)
    assert (cache.get_seq_length(), two.status(two.open(chat)).committed) == (30, 55)
    copied = copy.deepcopy(cache)
    cache.crop(-10)
    assert (cache.get_seq_length(), two.status(two.open(chat)).committed) == (20, 20)
    for one in (cache, copied):
        assert torch.equal(generate(llama, other, past_key_values=one), generate(own, other))


def test_rows_go_on_together(llama: PreTrainedModel, two: Cluster) -> None:
    _, numbers = dcp_support.seeded()
    own, chat = small("llama", attention="eager"), name()
    rows = [numbers.integers(3, 500, length).tolist() for length in (7, 25)]
    batch = padded(rows)
    with DCPCache(two, chat) as cache:
        answers = generate(llama, batch, past_key_values=cache)
    more = {
        "input_ids": answers,
        "attention_mask": torch.cat([batch["attention_mask"], torch.ones(2, 16, dtype=torch.long)], 1),
    }
    tokens = [row[mask.bool()].tolist() for row, mask in zip(answers, more["attention_mask"], strict=True)]
    for names in (chat, [f"{chat}/0", f"{chat}/1"]):
        cache = DCPCache(two, names, tokens=tokens)
        assert cache.get_seq_length() == 25 + 15
        assert torch.equal(generate(own, more, 8), generate(llama, more, 8, past_key_values=cache))


def test_a_prefix_is_found_by_its_tokens(llama: PreTrainedModel, two: Cluster) -> None:
    seed, _ = dcp_support.seeded()
    own, scope = small("llama", attention="eager"), name()
    with DCPCache(two, name(), scope=scope) as cache:
        generate(llama, ids(60, seed), past_key_values=cache)
    question = torch.cat([ids(60, seed)[:, :50], ids(9, seed + 1)], 1)
    with DCPCache.matching(two, name(), llama, question, scope=scope) as cache:
        assert cache.get_seq_length() >= 50
        assert torch.equal(generate(own, question), generate(llama, question, past_key_values=cache))
    assert DCPCache.matching(two, name(), llama, question, scope=name()).get_seq_length() == 0
    # Other weights make other keys of the same tokens.
    other = small("llama", seed=2)
    assert DCPCache.matching(two, name(), other, question, scope=scope).get_seq_length() == 0
    with pytest.raises(Conflict, match="already"):
        DCPCache.matching(two, cache.names[0], llama, question, scope=scope)


def shifted(how: str) -> dict[str, torch.Tensor]:
    """A batch of 6 and 30 tokens, the first of which is not where its length says."""
    batch = padded([ids(6, 1)[0].tolist(), ids(30, 2)[0].tolist()])
    if how == "counted from the padding":
        return batch
    positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    positions[0, -6:] += 7
    if how == "a gap":
        positions[0, -6:-3] -= 7
    return batch | {"position_ids": positions}


@pytest.mark.parametrize("how", ["counted from the padding", "an offset", "a gap"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_bigcode"])
def test_keys_at_other_positions_are_not_found(two: Cluster, architecture: str, how: str) -> None:
    own, daemons, scope = small(architecture, attention="eager"), small(architecture), name()
    batch = shifted(how)
    with DCPCache(two, name(), model=daemons, scope=scope) as cache, torch.no_grad():
        found = daemons(**batch, past_key_values=cache).logits
        expected = own(**batch).logits
    there = batch["attention_mask"].bool()
    torch.testing.assert_close(found[there], expected[there], atol=1e-4 * float(expected.abs().max()), rtol=0)
    for row, length in ((0, 0), (1, 30)):
        tokens = torch.cat([batch["input_ids"][row][there[row]], ids(5, 3)[0]])
        assert DCPCache.matching(two, name(), daemons, tokens, scope=scope).get_seq_length() == length
        # By its name it is taken up as it is, and with its tokens computed anew.
        assert DCPCache(two, cache.names[row], model=daemons, tokens=tokens).get_seq_length() == length


@pytest.mark.parametrize("architecture", ["gpt_bigcode", "opt"])
def test_padded_rows_are_found(two: Cluster, architecture: str) -> None:
    """Where attention is not told positions, they are those of the model's arguments."""
    daemons, scope = small(architecture), name()
    batch = padded([ids(6, 1)[0].tolist(), ids(30, 2)[0].tolist()])
    with DCPCache(two, name(), model=daemons, scope=scope) as cache:
        generate(daemons, batch, past_key_values=cache)
    for row, length in ((0, 6), (1, 30)):
        tokens = torch.cat([batch["input_ids"][row, -length:], ids(5, 3)[0]])
        assert DCPCache.matching(two, name(), daemons, tokens, scope=scope).get_seq_length() == length


def test_a_conversation_goes_on_at_other_positions(llama: PreTrainedModel, two: Cluster) -> None:
    """Without ids, unless they are stored with ids, as a sequence has them for all tokens or for none."""
    own, stored, other = small("llama", attention="eager"), name(), name()
    aside: dict[str, Any] = {"input_ids": ids(3, 2), "position_ids": torch.tensor([[30, 31, 32]])}
    cache, theirs = DCPCache(two, other, model=llama), DynamicCache()
    with torch.no_grad():
        for options in ({"input_ids": ids(20, 1)}, aside, {"input_ids": ids(4, 3)}):
            found = llama(**options, past_key_values=cache).logits
            expected = own(**options, past_key_values=theirs).logits
            torch.testing.assert_close(found, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)
        cache.commit()
        assert (two.status(two.open(other)).committed, two.status(two.open(other)).token_ids) == (27, 0)
        cache = DCPCache(two, stored)
        llama(ids(20, 1), past_key_values=cache)
        cache.commit()
        with pytest.raises(NotServed, match="these do not follow at position 20: .* Pass position_ids that"):
            llama(**aside, past_key_values=cache)
    question = torch.cat([ids(20, 1), ids(5, 4)], 1)
    assert torch.equal(generate(llama, question, past_key_values=cache), generate(own, question))


def test_a_prefix_for_many(llama: PreTrainedModel, two: Cluster) -> None:
    seed, _ = dcp_support.seeded()
    own, prompt = small("llama", attention="eager"), ids(40, seed)
    prefilled = DCPCache(two, name())
    with torch.no_grad():
        llama(prompt, past_key_values=prefilled)
    for question in range(2):
        asked = torch.cat([prompt, ids(5, seed + 1 + question)], 1)
        answer = generate(llama, asked, past_key_values=copy.deepcopy(prefilled))
        assert torch.equal(generate(own, asked), answer)
    assert prefilled.get_seq_length() == 40
    # So can be the model, once caches have used it.
    assert torch.equal(
        generate(copy.deepcopy(llama), prompt, past_key_values=DCPCache(two, name())), generate(own, prompt)
    )


def test_copies_of_a_cache_that_no_model_has_used(llama: PreTrainedModel, two: Cluster) -> None:
    seed, _ = dcp_support.seeded()
    own, chat = small("llama", attention="eager"), name()
    with DCPCache(two, chat) as cache:
        generate(llama, ids(20, seed), 1, past_key_values=cache)
    stored = DCPCache(two, chat)
    questions = [torch.cat([ids(20, seed), ids(6, seed + 1 + question)], 1) for question in range(3)]
    copies = [copy.deepcopy(stored), copy.deepcopy(stored), DCPCache(two, chat).fork(name())]
    for question, copied in zip(questions, copies, strict=True):
        answer = generate(llama, question, past_key_values=copied)
        assert torch.equal(answer, generate(own, question))
        copied.commit()
        # Under another's ids it would be found by them.
        assert two.token_ids(two.open(copied.names[0])).tolist() == answer[0, :-1].tolist()
    assert torch.equal(generate(llama, questions[0], past_key_values=stored), generate(own, questions[0]))


def test_other_weights_are_refused(llama: PreTrainedModel, two: Cluster) -> None:
    chat = name()
    with DCPCache(two, chat) as cache:
        generate(llama, ids(10, 1), past_key_values=cache)
    with pytest.raises(ModelMismatch, match="revision"):
        DCPCache(two, chat, model=small("llama", seed=2))
    with pytest.raises(ModelMismatch, match="revision"):
        generate(small("llama", seed=2), ids(30, 1), past_key_values=DCPCache(two, chat))
    # A refusal takes no token away, whatever is to follow.
    said, others = two.token_ids(two.open(chat)).tolist(), ids(30, 2)
    for refused in (
        lambda: DCPCache(two, chat, model=small("llama", seed=2), tokens=others),
        lambda: DCPCache(two, chat, model=llama, tokens=others, kv_format="int8"),
        lambda: generate(small("llama", seed=2), others, past_key_values=DCPCache(two, chat, tokens=others)),
        lambda: generate(llama, others, past_key_values=DCPCache(two, chat, tokens=others, kv_format="int8")),
    ):
        with pytest.raises(ModelMismatch):
            refused()
        assert two.status(two.open(chat)).committed == 25
        assert two.token_ids(two.open(chat)).tolist() == said
    tuned = copy.deepcopy(llama)
    assert DCPCache(two, chat, model=tuned).get_seq_length() == 25
    with torch.no_grad():
        next(tuned.parameters()).mul_(1.5)
    with pytest.raises(ModelMismatch, match="revision"):
        DCPCache(two, chat, model=tuned)
    embeds = llama.get_input_embeddings()(ids(30, 1)).detach()
    with pytest.raises(NotServed, match="has the ids of its"):
        cast("Any", llama).generate(
            inputs_embeds=embeds, max_new_tokens=2, past_key_values=DCPCache(two, chat, model=llama)
        )


class Lora(torch.nn.Module):
    """A layer with an adapter, by the names that PEFT gives its attributes."""

    base_layer: torch.nn.Module

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base_layer = base
        self.a = torch.nn.Parameter(torch.randn(4, base.in_features), requires_grad=False)
        self.b = torch.nn.Parameter(torch.randn(base.out_features, 4), requires_grad=False)
        self.merged_adapters: list[str] = []
        self.active_adapters = ["tuned"]
        self.disable_adapters = False
        self.scaling = {"tuned": 0.5}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = cast("torch.Tensor", self.base_layer(x))
        return y if self.disable_adapters else y + x @ self.a.T @ self.b.T * self.scaling["tuned"]


def test_adapters_are_of_the_weights(two: Cluster) -> None:
    seed, _ = dcp_support.seeded()
    model, chat, plain = small("llama", seed=seed), name(), name()
    layer = model.get_submodule("model.layers.1.self_attn")
    layer.k_proj = lora = Lora(layer.k_proj)
    with DCPCache(two, chat) as cache:
        generate(model, ids(20, seed), 2, past_key_values=cache)
    lora.disable_adapters = True
    with pytest.raises(ModelMismatch, match="revision"):
        DCPCache(two, chat, model=model)
    with DCPCache(two, plain) as cache:
        generate(model, ids(20, seed), 2, past_key_values=cache)
    lora.disable_adapters, lora.scaling["tuned"] = False, 0.25
    for stored in (chat, plain):
        with pytest.raises(ModelMismatch, match="revision"):
            DCPCache(two, stored, model=model)
    lora.scaling["tuned"] = 0.5
    assert DCPCache(two, chat, model=model).get_seq_length() == 21


class Packed(torch.nn.Module):
    """A layer whose weights are words in a buffer, as GPTQ and AWQ pack them."""

    qweight: torch.Tensor
    cached: torch.Tensor

    def __init__(self, base: Any) -> None:
        super().__init__()
        words = torch.randint(1 << 28, 1 << 29, base.weight.shape, dtype=torch.int32)
        self.register_buffer("qweight", words)
        self.register_buffer("cached", torch.rand(3), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ ((self.qweight % 16).to(x.dtype) / 64 - 0.1).T


def test_buffers_are_weights(two: Cluster) -> None:
    seed, _ = dcp_support.seeded()
    model, chat = small("llama", seed=seed), name()
    layer = model.get_submodule("model.layers.1.self_attn")
    layer.k_proj = packed = Packed(layer.k_proj)
    with DCPCache(two, chat) as cache:
        generate(model, ids(20, seed), 2, past_key_values=cache)
    other = copy.deepcopy(model)
    packed.cached.add_(1)
    assert DCPCache(two, chat, model=model).get_seq_length() == 21
    packed.qweight[0, 0] += 1  # less than the numbers around it differ by in f32
    for changed in (model, copy.deepcopy(model)):
        with pytest.raises(ModelMismatch, match="revision"):
            DCPCache(two, chat, model=changed)
    assert DCPCache(two, chat, model=other).get_seq_length() == 21


def test_everything_is_killed(tmp_path: Path) -> None:
    """SIGKILL of Python in the middle of an answer, and of all ranks and the coordinator."""
    seed, _ = dcp_support.seeded()
    with dcp_support.cluster(2) as cluster:
        script = Path(__file__).with_name("killed.py")
        environment = os.environ | {"PYTHONPATH": str(script.parents[1])}
        process = subprocess.Popen(
            [sys.executable, script, cluster.endpoint, str(seed)], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert process.stdout is not None
        spoken = [int(process.stdout.readline()) for _ in range(40)]
        process.kill()
        process.wait()
        for daemon in ("rank-0", "rank-1", "coordinator"):
            cluster.kill(daemon)
        cluster.start()
        with Cluster.connect(cluster.endpoint) as client:
            said = torch.cat([ids(900, seed), torch.tensor([spoken])], 1)
            cache = DCPCache(client, "chat-1", tokens=said)
            # Tokens are committed by sixteens; the last one spoken was not computed with.
            assert cache.get_seq_length() >= 900 + 40 - 1 - 17
            expected = generate(small("llama", attention="eager"), ids(900, seed), 60)
            assert expected[0, 900:940].tolist() == spoken
            assert torch.equal(generate(small("llama"), said, 20, past_key_values=cache), expected)
