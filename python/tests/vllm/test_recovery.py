"""What is left when everything is killed."""

import itertools


def test_a_prefix_is_found_after_sigkill_of_everything(llama, prompts, serve, start, cluster_of):
    prompt = prompts[4]
    cluster = cluster_of(4)
    job = {"model": str(llama), "endpoint": cluster.endpoint, "runs": [{"prompts": [prompt], "max_tokens": 1000}]}
    engine = start(job)
    answers = (line for line in engine.lines() if "request" in line)
    seen = next(line for line in itertools.islice(answers, 40, None))["tokens"]
    engine.kill()
    cluster.kill()

    cluster.start()
    going_on = prompt + seen
    runs = [{"prompts": [going_on], "max_tokens": 8}]
    served = serve(llama, runs, cluster.endpoint)
    # Every token that was seen has been committed, but the last: it was sampled, and not computed.
    assert served.runs[0][0]["cached"] == len(going_on) - 1
    own = serve(llama, [{"prompts": [prompt], "max_tokens": len(seen) + 8}])
    assert seen + served.tokens()[0] == own.tokens()[0]


def test_a_killed_rank_is_a_delay(llama, prompts, serve, start, cluster_of):
    runs = [{"prompts": prompts[:4], "max_tokens": 60}]
    cluster = cluster_of(2)
    engine = start({"model": str(llama), "endpoint": cluster.endpoint, "runs": runs})
    last = {}
    for number, line in enumerate(line for line in engine.lines() if "request" in line):
        last[line["request"]] = line["tokens"]
        if number == 60:
            cluster.kill(rank=1)
            cluster.start()
    assert [last[request] for request in sorted(last)] == serve(llama, runs).tokens()
