// SPDX-License-Identifier: Apache-2.0

import DCPCertificates
import DCPConsole
import DCPCore

struct CertificateView: Encodable {
    var file: String
    var roles: [String]
    var hostNames: [String]
    var isAuthority: Bool
    var serial: String
    var subject: String
    var issuer: String
    var notBefore: String
    var notAfter: String
    var keyFile: String?
    /// As in `0600`.
    var keyMode: String?

    init(_ certificate: CertificateDescription, in file: CertificateFile) {
        self.file = file.path
        roles = certificate.roles.map(\.uri)
        hostNames = certificate.hostNames
        isAuthority = certificate.isAuthority
        serial = certificate.serial
        subject = certificate.subject
        issuer = certificate.issuer
        notBefore = CertificateValidity.text(certificate.validity.notBefore)
        notAfter = CertificateValidity.text(certificate.validity.notAfter)
        keyFile = file.key?.path
        keyMode = file.key.map { "0" + String($0.mode, radix: 8) }
    }

    static func print(_ files: [CertificateFile], _ output: OutputOptions) throws {
        let views = files.flatMap { file in file.certificates.map { CertificateView($0, in: file) } }
        try output.print(views) {
            var table = TextTable("FILE", "ROLE", "NOT AFTER", "ISSUER", "SERIAL")
            for view in views {
                let role = view.isAuthority ? "authority" : view.roles.joined(separator: " ")
                table.append([view.file, role.isEmpty ? "none" : role, view.notAfter, view.issuer, view.serial])
            }
            return table.rendered()
        }
    }
}
