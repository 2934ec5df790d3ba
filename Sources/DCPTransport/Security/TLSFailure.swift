// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import NIOSSL

/// The errors for a failed handshake, derived from the names of BoringSSL's errors.
enum TLSFailure {
    /// For the side that accepts.
    /// - Parameter identity: the identity in the presented certificate, if any.
    /// - Returns: nil if the peer only disconnected.
    static func refusal(_ error: any Error, identity: TLSIdentity?) -> Refusal? {
        let names = "\(error)"
        if names.contains("EOF during handshake") { return nil }
        if names.contains("PEER_DID_NOT_RETURN_A_CERTIFICATE") {
            return Refusal(
                .noCertificate,
                ServiceError(.accessDenied, "The peer presented no certificate; make one for it with dcpctl certs."))
        }
        if names.contains("CERTIFICATE_VERIFY_FAILED") {
            // BoringSSL reports that the chain is invalid but not why, so the dates are checked here.
            if let identity, !identity.isValid(at: TLSIdentity.now) {
                return Refusal(
                    .expired,
                    ServiceError(
                        .accessDenied,
                        "The peer's certificate (\(identity.roleList)) has expired or is not valid yet; renew it "
                            + "with dcpctl certs, or set the clocks."))
            }
            return Refusal(
                .unknownAuthority,
                ServiceError(
                    .accessDenied,
                    "The peer's certificate (\(identity?.roleList ?? "unreadable")) is not signed by an authority in "
                        + "tls-ca."
                ))
        }
        return Refusal(
            .failedHandshake,
            ServiceError(
                .accessDenied,
                "TLS failed: the peer \(reason(names)?.text ?? "aborted the handshake (\(names))")."))
    }

    /// For the side that connects: the error for its caller.
    static func dialError(_ error: any Error, identity: TLSIdentity?, endpoint: String) -> ServiceError {
        let names = "\(error)"
        if names.contains("CERTIFICATE_VERIFY_FAILED") {
            let remedy =
                identity.map { $0.isValid(at: TLSIdentity.now) } == false
                ? "has expired or is not valid yet; renew it with dcpctl certs, or set the clocks."
                : "is not signed by an authority in tls-ca; correct tls-ca, or the certificate there."
            return ServiceError(.accessDenied, "The certificate of \(endpoint) \(remedy)")
        }
        guard let reason = reason(names) else {
            return ServiceError(
                .rankUnavailable,
                "\(endpoint) ended the connection during the TLS handshake (\(error)); its journal may say why.")
        }
        return ServiceError(reason.code, "TLS with \(endpoint) failed: it \(reason.text).")
    }

    /// Reasons with a remedy, by the names of BoringSSL's errors and of TLS alerts.
    private static let reasons: [(name: String, code: ServiceError.Code, text: String)] = [
        ("CERTIFICATE_REQUIRED", .accessDenied, "requires a certificate, and none was presented"),
        ("CERTIFICATE_EXPIRED", .accessDenied, "rejects the certificate presented to it: it has expired"),
        (
            "UNKNOWN_CA", .accessDenied,
            "rejects the certificate presented to it: it is not signed by an authority that is trusted there"
        ),
        ("ALERT_BAD_CERTIFICATE", .accessDenied, "rejects the certificate presented to it"),
        ("ALERT_CERTIFICATE_UNKNOWN", .accessDenied, "rejects the certificate presented to it"),
        ("WRONG_VERSION_NUMBER", .protocolViolation, "does not speak TLS"),
        ("UNSUPPORTED_PROTOCOL", .protocolViolation, "does not speak TLS 1.3"),
        ("ALERT_PROTOCOL_VERSION", .protocolViolation, "does not speak TLS 1.3"),
    ]

    private static func reason(_ names: String) -> (name: String, code: ServiceError.Code, text: String)? {
        reasons.first { names.contains($0.name) }
    }
}
