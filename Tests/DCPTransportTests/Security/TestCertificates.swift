// SPDX-License-Identifier: Apache-2.0

import DCPCertificates
import DCPCore
import DCPTestKit
import DCPTransport
import Foundation

/// An authority and the files of those it has signed.
final class TestCertificates: Sendable {
    let authority: CertificateAuthority
    private let directory = TemporaryDirectory()
    var authorityPath: String { directory.path("ca.pem") }

    init() throws {
        authority = try CertificateAuthority.make()
        try write(authority.issuer.certificatePEM, to: authorityPath)
    }

    /// Files of a new certificate.
    /// - Parameter believes: whom its holder believes, if not this authority.
    func files(
        _ roles: [CertificateRole], validity: CertificateValidity = .leaf, believes other: TestCertificates? = nil
    ) throws -> TLSFiles {
        let name = UUID().uuidString
        let pair = try authority.issue(roles, validity: validity)
        let files = TLSFiles(
            authority: (other ?? self).authorityPath, certificate: directory.path(name + ".pem"),
            key: directory.path(name + "-key.pem"))
        try write(pair.certificatePEM, to: files.certificate)
        try write(pair.keyPEM, to: files.key)
        return files
    }

    func credentials(_ role: CertificateRole, believes other: TestCertificates? = nil) throws -> TLSCredentials {
        let isClient = if case .client = role { true } else { false }
        return try TLSCredentials(files([role], believes: other), for: isClient ? nil : role)
    }

    func write(_ text: String, to path: String) throws {
        // Replaced as a whole, with the mode that keys have.
        try Data(text.utf8).write(to: URL(filePath: path), options: .atomic)
        try FileManager.default.setAttributes([.posixPermissions: 0o600], ofItemAtPath: path)
    }
}

extension CertificateValidity {
    static var over: CertificateValidity {
        CertificateValidity(notBefore: now - 7200, notAfter: now - 60)
    }
    static var toCome: CertificateValidity {
        CertificateValidity(notBefore: now + 3600, notAfter: now + 7200)
    }
}
