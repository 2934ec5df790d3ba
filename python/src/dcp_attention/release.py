# SPDX-License-Identifier: Apache-2.0

"""This package's release, which is the daemons'."""

from importlib.metadata import version

RELEASE = version("dcp-attention")
