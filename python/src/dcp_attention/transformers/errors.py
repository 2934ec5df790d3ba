# SPDX-License-Identifier: Apache-2.0

"""The error for unsupported models: `NotServed`."""

from __future__ import annotations


class NotServed(NotImplementedError):
    """A model, or a use of one, that the daemons' attention cannot compute exactly: what was found, and what to do
    instead.

    Raised before a token of it is generated: whatever is not recognised is refused, not guessed.
    """
