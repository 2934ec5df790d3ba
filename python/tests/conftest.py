# SPDX-License-Identifier: Apache-2.0

"""Clusters that the tests of a session share."""

from __future__ import annotations

from collections.abc import Iterator

import dcp_support
import pytest

from dcp_attention import Cluster


@pytest.fixture(scope="session")
def running() -> Iterator[dcp_support.LocalCluster]:
    """Two ranks that no test harms."""
    with dcp_support.cluster(2) as cluster:
        yield cluster


@pytest.fixture
def client(running: dcp_support.LocalCluster) -> Iterator[Cluster]:
    """A client of `running`."""
    with Cluster.connect(running.endpoint) as cluster:
        yield cluster
