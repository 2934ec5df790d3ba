# SPDX-License-Identifier: Apache-2.0

"""A vLLM in a process of its own: reads a job from standard input, writes what happens as lines of JSON.

A job is ``{"model", "endpoint", "dtype", "options", "extra", "runs"}``. Without an endpoint vLLM computes its attention
itself. A run is ``{"prompts", "max_tokens", "salts", "after"}``, prompts as lists of token ids; its requests are
batched, and each comes after so many steps of the run. Each line has the number of a request and its tokens so far, how
many of its prompt's tokens were not computed, and whether it is over.
"""

from __future__ import annotations

import json
import os
import sys
from itertools import count
from typing import Any

from vllm import LLM, SamplingParams


def main() -> None:
    job = json.load(sys.stdin)
    options: dict[str, Any] = {"enable_prefix_caching": False, "kv_cache_memory_bytes": 1 << 26, "max_model_len": 2048}
    if job["endpoint"] is not None:
        extra = {"endpoint": job["endpoint"], **job.get("extra", {})}
        transfer = {"kv_connector": "DCPConnector", "kv_role": "kv_both", "kv_connector_extra_config": extra}
        options["kv_transfer_config"] = transfer
    options |= {"enforce_eager": True, "disable_log_stats": False, "seed": 0, **job.get("options", {})}
    llm = LLM(model=job["model"], dtype=job.get("dtype", "float32"), **options)
    cache = llm.llm_engine.vllm_config.cache_config
    say(ready=os.getpid(), capacity=cache.num_gpu_blocks * cache.block_size)
    for run in job["runs"]:
        generate(llm, run)
    say(preemptions=sum(m.value for m in llm.get_metrics() if m.name == "vllm:num_preemptions"))
    llm.llm_engine.engine_core.shutdown()


def generate(llm: LLM, run: dict[str, Any]) -> None:
    engine = llm.llm_engine
    salts = run.get("salts") or [None] * len(run["prompts"])
    after = run.get("after") or [0] * len(run["prompts"])
    coming = [
        (steps, str(number), {"prompt_token_ids": prompt} | ({} if salt is None else {"cache_salt": salt}))
        for number, (prompt, salt, steps) in enumerate(zip(run["prompts"], salts, after, strict=True))
    ]
    params = SamplingParams(temperature=0, max_tokens=run["max_tokens"], ignore_eos=True, logprobs=2)
    for step in count():
        for _, number, text in [request for request in coming if request[0] == step]:
            engine.add_request(number, text, params)
        if step >= max(after) and not engine.has_unfinished_requests():
            break
        for output in engine.step():
            answer = output.outputs[0]
            margins = [
                sorted((p.logprob for p in places.values()), reverse=True)[:2] for places in answer.logprobs or []
            ]
            say(
                request=int(output.request_id),
                tokens=list(answer.token_ids),
                cached=output.num_cached_tokens,
                margins=[best - second for best, second in margins],
                finished=output.finished,
            )
    # What has finished is closed with the next step, which is empty.
    engine.step()


def say(**line: object) -> None:
    OUT.write(json.dumps(line) + "\n")
    OUT.flush()


if __name__ == "__main__":
    # vLLM writes its log to standard output, too.
    OUT = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    main()
