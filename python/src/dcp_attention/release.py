"""This package's release, which is the daemons'."""

from importlib.metadata import version

RELEASE = version("dcp-attention")
