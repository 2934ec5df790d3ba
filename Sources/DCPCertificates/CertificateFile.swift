// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import Foundation
internal import X509

/// A file of one certificate or several, such as old and new authorities in one `ca.pem`, and the key beside it.
public struct CertificateFile: Hashable, Sendable {
    public var path: String
    /// One at least. A daemon's own certificate is the first.
    public var certificates: [CertificateDescription]
    /// Nil when there is no key beside it.
    public var key: Key?

    public struct Key: Hashable, Sendable {
        public var path: String
        /// Permission bits, as in 0o600.
        public var mode: UInt32
        public var owner: UInt32
        /// Whether it is the first certificate's key; nil when this process may not read it.
        public var matches: Bool?

        /// Whether anybody but its owner may read or write it.
        public var isOpenToOthers: Bool { mode & 0o077 != 0 }
    }

    /// Reads a certificate, and its key where `X-key.pem` lies beside `X.pem`.
    /// - Throws: `.invalidRequest` that names the file.
    public init(path: String) throws(ServiceError) {
        let stem = path.hasSuffix(".pem") ? String(path.dropLast(4)) : path
        let key = "\(stem)-key.pem"
        try self.init(path: path, key: FileAccess.exists(key) ? key : nil)
    }

    /// - Parameter key: nil for a certificate without one.
    public init(path: String, key: String?) throws(ServiceError) {
        let certificates = try Self.read(path)
        self.path = path
        self.certificates = certificates.map { CertificateDescription($0) }
        self.key = try key.map { key throws(ServiceError) in try Key(path: key, of: certificates[0]) }
    }

    /// The certificates of a directory, or the one of a file.
    /// - Throws: `.invalidRequest` that names the file.
    public static func all(at path: String) throws(ServiceError) -> [CertificateFile] {
        if try FileAccess.isDirectory(path) { return try CertificateDirectory(path: path).files() }
        return [try CertificateFile(path: path)]
    }

    /// Whether an authority in another file has signed the first certificate, its dates aside.
    public func isIssued(by authorities: CertificateFile) throws(ServiceError) -> Bool {
        let leaf = try Self.read(path)[0]
        return try Self.read(authorities.path).contains { authority in
            leaf.issuer == authority.subject && authority.publicKey.isValidSignature(leaf.signature, for: leaf)
        }
    }

    private static func read(_ path: String) throws(ServiceError) -> [Certificate] {
        let text = try FileAccess.read(path)
        do {
            return try CertificateDescription.certificates(pem: text)
        } catch {
            throw ServiceError(error.code, "\(path): \(error.message)")
        }
    }
}

extension CertificateFile.Key {
    fileprivate init(path: String, of certificate: Certificate) throws(ServiceError) {
        let attributes = try FileAccess.attributes(path)
        self.path = path
        mode = (attributes[.posixPermissions] as? NSNumber)?.uint32Value ?? 0
        owner = (attributes[.ownerAccountID] as? NSNumber)?.uint32Value ?? 0
        guard access(path, R_OK) == 0 else { return }
        let text = try FileAccess.read(path)
        guard let key = try? Certificate.PrivateKey(pemEncoded: text) else {
            throw ServiceError(.invalidRequest, "\(path) is not a private key in PEM.")
        }
        matches = key.publicKey == certificate.publicKey
    }
}

extension CertificateAuthority {
    func hasIssued(_ leaf: KeyedCertificate) -> Bool {
        leaf.certificate.issuer == issuer.certificate.subject
            && issuer.certificate.publicKey.isValidSignature(leaf.certificate.signature, for: leaf.certificate)
    }
}
