# SPDX-License-Identifier: Apache-2.0

"""The releases of transformers that are served. Caches, masks and attention functions change from one to the next."""

from __future__ import annotations

# Caches of latents, and `crop` with a number of tokens to remove, are in no release before.
FIRST = (5, 15)


def require_served() -> None:
    """Refuses another release than those that are served: it would fail later, in its own words.

    Raises:
        ImportError: With both numbers.
    """
    from transformers import __version__

    release = tuple(int(part) for part in __version__.split(".")[:2])
    if not FIRST <= release < (FIRST[0] + 1,):
        wanted = f"transformers>={FIRST[0]}.{FIRST[1]},<{FIRST[0] + 1}"
        raise ImportError(
            f"dcp_attention.transformers needs {wanted}, and this is transformers {__version__}, whose caches differ; "
            f"install '{wanted}', or a dcp-attention for {__version__}."
        )
