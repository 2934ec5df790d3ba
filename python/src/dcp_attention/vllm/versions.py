"""The versions of vLLM that the plugin was tried with. What it hooks into is no stable interface of vLLM's."""

from __future__ import annotations

TRIED = ("0.32.0",)


class Unsupported(RuntimeError):
    """A configuration or version of vLLM that cannot be served, and what to change. Nothing was computed."""


def installed() -> str:
    """The version of vLLM, without what a build adds to it (``0.32.0+cpu`` is ``0.32.0``)."""
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
            f"differ in what it hooks into; install vllm=={TRIED[-1]}, or a dcp-attention for {installed()}."
        )
