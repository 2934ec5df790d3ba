internal import DCPCore
internal import NIOSSL

/// What a failed handshake means. BoringSSL says it by the names of its errors.
enum TLSFailure {
    /// For the side that accepts.
    /// - Parameter identity: of the certificate that was shown, if any came.
    /// - Returns: nil when the peer just went away.
    static func refusal(_ error: any Error, identity: TLSIdentity?) -> Refusal? {
        let names = "\(error)"
        if names.contains("EOF during handshake") { return nil }
        if names.contains("PEER_DID_NOT_RETURN_A_CERTIFICATE") {
            return Refusal(
                .noCertificate,
                ServiceError(.accessDenied, "The peer showed no certificate; make it one with dcpctl certs."))
        }
        if names.contains("CERTIFICATE_VERIFY_FAILED") {
            // BoringSSL tells that the chain does not hold, not why: the dates are looked at here.
            if let identity, !identity.isValid(at: TLSIdentity.now) {
                return Refusal(
                    .expired,
                    ServiceError(
                        .accessDenied,
                        "The peer's certificate (\(identity.roleList)) is valid no more, or not yet; renew it with dcpctl "
                            + "certs, or set the clocks."))
            }
            return Refusal(
                .unknownAuthority,
                ServiceError(
                    .accessDenied,
                    "The peer's certificate (\(identity?.roleList ?? "unreadable")) is not from an authority in tls-ca."
                ))
        }
        return Refusal(
            .failedHandshake, ServiceError(.accessDenied, "TLS failed: \(explanation(names, of: "The peer"))."))
    }

    /// For the side that dials: what to tell whoever wanted the connection. Retryable, because a certificate that was
    /// renewed and a daemon that was restarted change it.
    static func dialError(_ error: any Error, identity: TLSIdentity?, endpoint: String) -> ServiceError {
        let names = "\(error)"
        let text: String
        if names.contains("CERTIFICATE_VERIFY_FAILED") {
            if let identity, !identity.isValid(at: TLSIdentity.now) {
                text =
                    "The certificate of \(endpoint) is valid no more, or not yet; renew it with dcpctl certs, or set the clocks."
            } else {
                text =
                    "The certificate of \(endpoint) is not from an authority in tls-ca; correct tls-ca, or the certificate there."
            }
        } else if names.contains("EOF during handshake") {
            text = "\(endpoint) ended the connection during the TLS handshake; its journal says why."
        } else {
            text = "TLS with \(endpoint) failed: \(explanation(names, of: "It"))."
        }
        return ServiceError(.rankUnavailable, text)
    }

    /// Reasons that an operator can do something about, by the names of BoringSSL's errors and of TLS alerts.
    private static let reasons: [(name: String, text: String)] = [
        ("CERTIFICATE_REQUIRED", "wants a certificate, and none was shown"),
        ("CERTIFICATE_EXPIRED", "does not accept the certificate that it is shown: it is valid no more"),
        (
            "UNKNOWN_CA",
            "does not accept the certificate that it is shown: it is not from an authority that is believed there"
        ),
        ("ALERT_BAD_CERTIFICATE", "does not accept the certificate that it is shown"),
        ("ALERT_CERTIFICATE_UNKNOWN", "does not accept the certificate that it is shown"),
        ("WRONG_VERSION_NUMBER", "does not speak TLS"),
        ("UNSUPPORTED_PROTOCOL", "does not speak TLS 1.3"),
        ("ALERT_PROTOCOL_VERSION", "does not speak TLS 1.3"),
    ]

    private static func explanation(_ names: String, of peer: String) -> String {
        if let reason = reasons.first(where: { names.contains($0.name) }) { return "\(peer) \(reason.text)" }
        return names
    }
}
