// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import Foundation
internal import SwiftASN1
internal import X509

/// The contents of a certificate, trusted or not.
public struct CertificateDescription: Hashable, Sendable {
    public var subject: String
    public var issuer: String
    /// 40 hexadecimal digits for certificates of ours.
    public var serial: String
    public var roles: [CertificateRole]
    public var hostNames: [String]
    public var validity: CertificateValidity
    public var isAuthority: Bool

    /// The certificates of a PEM text, in its order. Other PEM blocks, such as keys, are passed over.
    /// - Throws: `.invalidRequest` for text that is no PEM, or holds no certificate.
    public static func read(pem text: String) throws(ServiceError) -> [CertificateDescription] {
        try certificates(pem: text).map { CertificateDescription($0) }
    }

    static func certificates(pem text: String) throws(ServiceError) -> [Certificate] {
        let certificates: [Certificate]
        do {
            certificates = try PEMDocument.parseMultiple(pemString: text)
                .filter { $0.discriminator == Certificate.defaultPEMDiscriminator }
                .map { try Certificate(pemDocument: $0) }
        } catch {
            throw ServiceError(.invalidRequest, "This is not a certificate in PEM: \(error).")
        }
        guard !certificates.isEmpty else { throw ServiceError(.invalidRequest, "The file contains no certificate.") }
        return certificates
    }

    init(_ certificate: Certificate) {
        // Extensions that cannot be read give no rights.
        let names = (try? certificate.extensions.subjectAlternativeNames).map(Array.init) ?? []
        roles = names.compactMap { name in
            if case .uniformResourceIdentifier(let uri) = name { CertificateRole(uri: uri) } else { nil }
        }
        hostNames = names.compactMap(\.hostName)
        if case .isCertificateAuthority = try? certificate.extensions.basicConstraints {
            isAuthority = true
        } else {
            isAuthority = false
        }
        subject = "\(certificate.subject)"
        issuer = "\(certificate.issuer)"
        serial = certificate.serialNumber.bytes.map { byte in
            (byte < 16 ? "0" : "") + String(byte, radix: 16)
        }.joined()
        validity = CertificateValidity(
            notBefore: Int64(certificate.notValidBefore.timeIntervalSince1970),
            notAfter: Int64(certificate.notValidAfter.timeIntervalSince1970))
    }
}
