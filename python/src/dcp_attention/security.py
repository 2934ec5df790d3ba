# SPDX-License-Identifier: Apache-2.0

"""A client's identity for daemons that it reaches over TCP."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from typing import Any

from dcp_attention.errors import AccessDenied, InvalidConfiguration


@dataclass(frozen=True, slots=True)
class TLS:
    """A certificate, its key, and whom to believe: PEM files, as `dcpctl certs` makes them.

    Connections are TLS 1.3 with certificates on both sides. Roles in the certificates, not host names, say who a peer
    is. The files are read at each connection, so renewed ones are taken without a restart.

    Attributes:
        ca: The cluster's certificate authority.
        certificate: This client's, with a role ``dcp:client:NAME``.
        key: Its key.
    """

    ca: str | os.PathLike[str]
    certificate: str | os.PathLike[str]
    key: str | os.PathLike[str]

    @staticmethod
    def from_environment() -> TLS | None:
        """The files in ``DCP_TLS_CA``, ``DCP_TLS_CERTIFICATE`` and ``DCP_TLS_KEY``; ``None`` without any of them.

        Raises:
            InvalidConfiguration: Some of them are set, and not all.
        """
        names = ("DCP_TLS_CA", "DCP_TLS_CERTIFICATE", "DCP_TLS_KEY")
        values = [os.environ.get(name, "") for name in names]
        missing = [name for name, value in zip(names, values, strict=True) if not value]
        if len(missing) == len(names):
            return None
        if missing:
            raise InvalidConfiguration(f"{' and '.join(missing)} is not set; TLS needs all of {', '.join(names)}.")
        return TLS(*values)

    def context(self) -> ssl.SSLContext:
        """The `ssl` context for connections.

        Raises:
            InvalidConfiguration: A file cannot be read, or certificate and key do not go together.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # A rank keeps its number while its host and address change: the role in its certificate takes the name's place.
        context.check_hostname = False
        try:
            context.load_verify_locations(self.ca)
        except (OSError, ssl.SSLError) as error:
            raise InvalidConfiguration(
                f"The authority {os.fspath(self.ca)} cannot be used ({error}); name the cluster's ca.pem."
            ) from error
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise InvalidConfiguration(
                f"The certificate {os.fspath(self.certificate)} and the key {os.fspath(self.key)} cannot be used "
                f"together ({error}); name a certificate of `dcpctl certs` and its key."
            ) from error
        return context


def check_role(certificate: Any, expected: str) -> None:
    """For the connecting side: the certificate of the peer must have a role.

    Args:
        certificate: As `ssl.SSLSocket.getpeercert` has it.
        expected: ``dcp:coordinator`` or ``dcp:rank:N``.

    Raises:
        AccessDenied: It is for something else, with both.
    """
    names = (certificate or {}).get("subjectAltName", ())
    roles = sorted(value for kind, value in names if kind == "URI" and value.startswith("dcp:"))
    if expected not in roles:
        raise AccessDenied(
            f"The certificate that answers is for {', '.join(roles) or 'no role'}, not for {expected}; correct the "
            "address, or the certificate there."
        )
