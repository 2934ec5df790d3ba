// SPDX-License-Identifier: Apache-2.0

internal import Crypto
public import DCPCore
internal import SwiftASN1
internal import X509

/// A certificate and its private key, on the curve P-256.
///
/// P-256 and not Ed25519: every TLS library and every hardware module takes it.
public struct KeyedCertificate: Sendable {
    let certificate: Certificate
    let key: Certificate.PrivateKey

    init(_ certificate: Certificate, _ key: Certificate.PrivateKey) {
        self.certificate = certificate
        self.key = key
    }

    /// - Throws: `.invalidRequest` for text that is no PEM, or of a key that is not the certificate's.
    public init(certificatePEM: String, keyPEM: String) throws(ServiceError) {
        do {
            certificate = try Certificate(pemEncoded: certificatePEM)
        } catch {
            throw ServiceError(.invalidRequest, "This is not a certificate in PEM: \(error).")
        }
        do {
            key = try Certificate.PrivateKey(pemEncoded: keyPEM)
        } catch {
            // The error is left out: it could quote what it read.
            throw ServiceError(.invalidRequest, "This is not a private key in PEM.")
        }
        guard key.publicKey == certificate.publicKey else {
            throw ServiceError(.invalidRequest, "The private key does not match the certificate.")
        }
    }

    /// With a line feed at its end, as files have it.
    public var certificatePEM: String {
        get throws(ServiceError) { try Self.text { try certificate.serializeAsPEM() } }
    }

    /// PKCS #8. Its reader can impersonate the certificate's holder.
    public var keyPEM: String { get throws(ServiceError) { try Self.text { try key.serializeAsPEM() } } }

    private static func text(_ document: () throws -> PEMDocument) throws(ServiceError) -> String {
        do {
            return try document().pemString + "\n"
        } catch {
            throw ServiceError(.internal, "A certificate cannot be written as PEM: \(error). Report this as a bug.")
        }
    }
}
