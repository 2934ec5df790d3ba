# SPDX-License-Identifier: Apache-2.0

"""The versions of vLLM that the plugin was tested with. It hooks into interfaces that vLLM does not keep stable."""

from __future__ import annotations

TRIED = ("0.32.0",)


class Unsupported(RuntimeError):
    """A configuration or version of vLLM that is not supported, and what to change. Nothing was computed."""


def installed() -> str:
    """The version of vLLM without the build suffix (``0.32.0`` for ``0.32.0+cpu``)."""
    from vllm import __version__

    return str(__version__).partition("+")[0]


def is_tried() -> bool:
    """Whether the plugin was tried with the vLLM that is installed."""
    return installed() in TRIED


def require_tried() -> None:
    """Refuses another vLLM.

    Raises:
        Unsupported: With both versions.
    """
    if not is_tried():
        raise Unsupported(
            f"DCPConnector was tried with vLLM {' and '.join(TRIED)}, and this is vLLM {installed()}, which may "
            f"differ in the interfaces it uses; install vllm=={TRIED[-1]}, or a dcp-attention for {installed()}."
        )
