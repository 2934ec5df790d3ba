// SPDX-License-Identifier: Apache-2.0

package import DCPCore
package import DCPWire
internal import Glibc
internal import NIOSSL

/// The holder's identity in a verified certificate.
///
/// BoringSSL checks that the certificate belongs to the cluster; this type checks its roles. Host names are not
/// checked: a rank's number is bound to its store while its host and address may change, so the role replaces the name.
/// A connection to rank 3 requires a certificate of rank 3, whatever the address.
package struct TLSIdentity: Hashable, Sendable {
    package var roles: Set<CertificateRole>
    /// Seconds since 1970.
    package var notBefore: Int
    package var notAfter: Int

    package init(roles: Set<CertificateRole>, notBefore: Int, notAfter: Int) {
        self.roles = roles
        self.notBefore = notBefore
        self.notAfter = notAfter
    }

    init(_ certificate: NIOSSLCertificate) {
        var roles: Set<CertificateRole> = []
        for name in certificate._subjectAlternativeNames() where name.nameType == .uri {
            let uri = name.contents.withUnsafeBufferPointer { String(decoding: $0, as: UTF8.self) }
            if let role = CertificateRole(uri: uri) { roles.insert(role) }
        }
        self.init(
            roles: roles, notBefore: Int(certificate.notValidBefore), notAfter: Int(certificate.notValidAfter))
    }

    /// From the peer's certificate. Its dates are checked again here, because a resumed session is not verified again.
    static func shown(to tls: NIOSSLHandler?) throws(ServiceError) -> TLSIdentity {
        guard let certificate = tls?.peerCertificate else {
            throw ServiceError(.accessDenied, "The peer presented no certificate; make one for it with dcpctl certs.")
        }
        let identity = TLSIdentity(certificate)
        guard identity.isValid(at: now) else {
            throw ServiceError(
                .accessDenied,
                "The peer's certificate (\(identity.roleList)) has expired; renew it with dcpctl certs.")
        }
        return identity
    }

    package func isValid(at now: Int) -> Bool { (notBefore...max(notBefore, notAfter)).contains(now) }

    /// For messages: `dcp:rank:3, dcp:client:alice`.
    package var roleList: String {
        roles.isEmpty ? "no role" : roles.map(\.uri).sorted().joined(separator: ", ")
    }

    /// For the connecting side: the peer's certificate must have this role.
    package func check(is expected: CertificateRole) throws(ServiceError) {
        guard roles.contains(expected) else {
            throw ServiceError(
                .accessDenied,
                "The certificate presented there is for \(roleList), not for \(expected.uri); correct the address, or "
                    + "the certificate there.")
        }
    }

    /// For the accepting side: the certificate must have the role that the hello states.
    ///
    /// A rank requests the cluster's shape before it can state its layout, so its certificate counts as a client's at
    /// the coordinator, and only there. The coordinator's certificate counts as a client's everywhere, because it sends
    /// the canaries.
    package func check(_ hello: Hello, acceptedBy acceptor: CertificateRole) throws(ServiceError) {
        let isAllowed = roles.contains { role in
            switch (hello.role, role) {
            case (.rank, .rank(let rank)): rank == hello.rank
            case (.coordinator, .coordinator), (.client, .client): true
            case (.client, .rank): acceptor == .coordinator
            case (.client, .coordinator): true
            default: false
            }
        }
        guard isAllowed else {
            throw ServiceError(
                .accessDenied,
                "The certificate is for \(roleList), but the hello is from \(hello.sender); use a certificate with "
                    + "that role (dcpctl certs).")
        }
    }

    /// The identity for a client's requests after its hello: its role with the highest right. A rank's certificate has
    /// the right to read, because it requests only the cluster's shape as a client.
    package var caller: Caller {
        let callers = roles.map { role in
            switch role {
            case .client(let name, let right): Caller(identity: "client:\(name)", right: right)
            case .coordinator: Caller(identity: "coordinator", right: .administer)
            case .rank(let rank): Caller(identity: "rank:\(rank.value)", right: .read)
            }
        }
        let most = callers.max { ($0.right, $1.identity) < ($1.right, $0.identity) }
        return most ?? Caller(identity: "nobody", right: .read)
    }

    static var now: Int { time(nil) }
}
