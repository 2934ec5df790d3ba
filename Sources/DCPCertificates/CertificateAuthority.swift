// SPDX-License-Identifier: Apache-2.0

internal import Crypto
public import DCPCore
internal import Foundation
internal import SwiftASN1
internal import X509

/// A cluster's own certificate authority: it signs the certificates of daemons and clients, and nothing else.
///
/// Its certificate is what all of them trust, and its key makes new members. The key is needed to make and to renew
/// certificates only, and belongs on no host that serves.
public struct CertificateAuthority: Sendable {
    public let issuer: KeyedCertificate

    /// - Throws: `.invalidRequest` for a certificate that is no authority's.
    public init(_ issuer: KeyedCertificate) throws(ServiceError) {
        guard CertificateDescription(issuer.certificate).isAuthority else {
            throw ServiceError(
                .invalidRequest,
                "The certificate `\(issuer.certificate.subject)` does not belong to an authority.")
        }
        self.issuer = issuer
    }

    /// A new authority with a new key. Authorities have different names, so that messages distinguish them.
    public static func make(validity: CertificateValidity = .authority) throws(ServiceError) -> CertificateAuthority {
        let key = Certificate.PrivateKey(P256.Signing.PrivateKey())
        let mark = String(UInt32.random(in: 0...UInt32.max), radix: 16)
        return try building { () throws in
            let name = try DistinguishedName { CommonName("DCP cluster authority \(mark)") }
            let certificate = try Certificate(
                version: .v3, serialNumber: .random(), publicKey: key.publicKey,
                notValidBefore: CertificateValidity.date(validity.notBefore),
                notValidAfter: CertificateValidity.date(validity.notAfter), issuer: name, subject: name,
                extensions: Certificate.Extensions {
                    // No authority below this one.
                    Critical(BasicConstraints.isCertificateAuthority(maxPathLength: 0))
                    Critical(KeyUsage(keyCertSign: true, cRLSign: true))
                    SubjectKeyIdentifier(hash: key.publicKey)
                },
                issuerPrivateKey: key)
            return CertificateAuthority(unchecked: KeyedCertificate(certificate, key))
        }
    }

    /// A new certificate with a new key.
    /// - Parameters:
    ///   - roles: what the holder may be; one at least, or the process traps.
    ///   - hostNames: DNS names and IP addresses for other programs; daemons and clients of a cluster go by the roles.
    public func issue(
        _ roles: [CertificateRole], hostNames: [String] = [], validity: CertificateValidity = .leaf
    ) throws(ServiceError) -> KeyedCertificate {
        try issue(roles, hostNames, validity, key: Certificate.PrivateKey(P256.Signing.PrivateKey()))
    }

    /// A certificate for the same key, roles and names: whichever of the two a daemon reads beside its key, they match.
    public func renew(
        _ old: KeyedCertificate, validity: CertificateValidity = .leaf
    ) throws(ServiceError) -> KeyedCertificate {
        let description = CertificateDescription(old.certificate)
        return try issue(description.roles, description.hostNames, validity, key: old.key)
    }

    private func issue(
        _ roles: [CertificateRole], _ hostNames: [String], _ validity: CertificateValidity,
        key: Certificate.PrivateKey
    ) throws(ServiceError) -> KeyedCertificate {
        precondition(!roles.isEmpty, "a certificate needs at least one role")
        let authority = issuer.certificate
        let end = Int64(authority.notValidAfter.timeIntervalSince1970)
        guard validity.notAfter <= end else {
            // A minute for whoever types the number.
            let days = max(0, (end - CertificateValidity.now - 60) / 86400)
            throw ServiceError(
                .invalidRequest,
                "The certificates would outlive their authority; make them for at most \(days) days, or start over "
                    + "with another authority.")
        }
        return try Self.building { () throws in
            let certificate = try Certificate(
                version: .v3, serialNumber: .random(), publicKey: key.publicKey,
                notValidBefore: CertificateValidity.date(validity.notBefore),
                notValidAfter: CertificateValidity.date(validity.notAfter), issuer: authority.subject,
                subject: try DistinguishedName { CommonName(roles[0].uri) },
                extensions: Certificate.Extensions {
                    Critical(BasicConstraints.notCertificateAuthority)
                    Critical(KeyUsage(digitalSignature: true))
                    // Daemons dial each other, and are dialled.
                    try ExtendedKeyUsage([.serverAuth, .clientAuth])
                    SubjectAlternativeNames(
                        roles.map { .uniformResourceIdentifier($0.uri) } + hostNames.map(GeneralName.init(hostName:)))
                    SubjectKeyIdentifier(hash: key.publicKey)
                    AuthorityKeyIdentifier(
                        keyIdentifier: SubjectKeyIdentifier(hash: authority.publicKey).keyIdentifier)
                },
                issuerPrivateKey: issuer.key)
            return KeyedCertificate(certificate, key)
        }
    }

    private init(unchecked issuer: KeyedCertificate) { self.issuer = issuer }

    private static func building<Result>(_ body: () throws -> Result) throws(ServiceError) -> Result {
        do {
            return try body()
        } catch {
            throw ServiceError(.invalidRequest, "The certificate cannot be made: \(error).")
        }
    }
}

extension Certificate.SerialNumber {
    /// 20 random bytes that are 20 in ASN.1 too: the library's own has a bit more, with which every second serial number
    /// takes 21, one more than RFC 5280 allows.
    fileprivate static func random() -> Certificate.SerialNumber {
        var generator = SystemRandomNumberGenerator()
        var bytes = (0..<20).map { _ in UInt8.random(in: 0...255, using: &generator) }
        bytes[0] = bytes[0] & 0x3F | 0x40
        return Certificate.SerialNumber(bytes: bytes)
    }
}
