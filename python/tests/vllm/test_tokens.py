"""Greedy tokens are vLLM's own, whoever computes the attention."""

import pytest

TOKENS = 16


@pytest.mark.parametrize(("ranks", "dtype"), [(2, "float32"), (4, "bfloat16")])
def test_tokens_are_vllms_own(ranks, dtype, llama, prompts, serve, cluster_of):
    runs = [{"prompts": prompts, "max_tokens": TOKENS}]
    own = serve(llama, runs, dtype=dtype)
    # Chunks of 256 tokens, of several requests at once.
    options = {"max_num_batched_tokens": 256}
    served = serve(llama, runs, cluster_of(ranks).endpoint, dtype=dtype, options=options)
    assert_same(served, own, margin=0 if dtype == "float32" else 0.06)
    assert served.capacity > 8 * own.capacity, "vLLM's own pages bound the context"


def test_windows_are_the_models(windowed, prompts, serve, cluster_of):
    runs = [{"prompts": prompts, "max_tokens": TOKENS}]
    assert_same(serve(windowed, runs, cluster_of(2).endpoint), serve(windowed, runs))


def test_a_prefix_is_found_by_its_tokens_and_only_in_its_scope(llama, prompts, serve, cluster_of):
    prompt = prompts[3]
    longer = prompt + prompts[2]
    runs = [
        {"prompts": [prompt], "max_tokens": 4},
        {"prompts": [longer, longer, longer], "max_tokens": 4, "salts": [None, "alice", "bob"]},
        {"prompts": [longer, longer, prompts[1]], "max_tokens": 4, "salts": [None, "alice", None]},
    ]
    served = serve(llama, runs, cluster_of(2).endpoint)
    assert [line["cached"] for line in served.runs[0]] == [0]
    assert [line["cached"] for line in served.runs[1]] == [len(prompt), 0, 0]
    assert [line["cached"] for line in served.runs[2]] == [len(longer) - 1, len(longer) - 1, 0]
    assert served.tokens(1) == 3 * served.tokens(1)[:1]
    assert served.tokens(2)[:2] == served.tokens(1)[:2]


def test_a_preempted_request_goes_on_where_it_was(llama, prompts, serve, cluster_of):
    runs = [{"prompts": [prompt[:100] for prompt in prompts[2:]] * 2, "max_tokens": 80}]
    # 18 blocks of 32 tokens: room for 4 of the 8 prompts, and not for what they write.
    options = {"max_model_len": 512, "block_size": 32, "num_gpu_blocks_override": 18}
    served = serve(llama, runs, cluster_of(2).endpoint, options=options)
    assert served.preemptions > 0
    assert_same(served, serve(llama, runs, options={"max_model_len": 512}))


def assert_same(served, own, margin=0.0):
    """Tokens are equal, but where vLLM's own attention was undecided between two within a margin of nats."""
    for run, expected in zip(served.runs, own.runs, strict=True):
        for line, other in zip(run, expected, strict=True):
            equal = [a == b for a, b in zip(line["tokens"], other["tokens"], strict=True)]
            if not all(equal):
                place = equal.index(False)
                assert other["margins"][place] < margin, f"request {line['request']} differs from token {place} on"
