// SPDX-License-Identifier: Apache-2.0

import DCPCertificates
import DCPCore
import DCPTransport
import Foundation
import Testing

@Suite("TLS files")
struct CredentialTests {
    private let certificates: TestCertificates

    init() throws { certificates = try TestCertificates() }

    private func refusal(_ files: TLSFiles, for role: CertificateRole? = .coordinator) -> String? {
        do throws(ServiceError) {
            _ = try TLSCredentials(files, for: role)
            return nil
        } catch {
            #expect(error.code == .invalidConfiguration)
            return error.message
        }
    }

    @Test("files that peers would refuse are refused here, with the file and what to do")
    func refused() throws {
        let good = try certificates.files([.coordinator])
        #expect(refusal(good) == nil)
        var files = good
        files.key = try certificates.files([.coordinator]).key
        #expect(try #require(refusal(files)).contains("do not match"))
        files = good
        files.authority = "/nowhere/ca.pem"
        #expect(try #require(refusal(files)).contains("/nowhere/ca.pem cannot be read (No such file"))
        files = good
        files.certificate = good.key
        #expect(try #require(refusal(files)).contains(good.key))
        #expect(try #require(refusal(good, for: .rank(RankIndex(3)))).contains("dcp:coordinator, not for dcp:rank:3"))
        #expect(try #require(refusal(good, for: nil)).contains("not for dcp:client:NAME"))
        #expect(refusal(try certificates.files([.client("a"), .coordinator]), for: nil) == nil)
        #expect(
            try #require(refusal(certificates.files([.coordinator], validity: .over))).contains("has expired; renew"))
        #expect(
            try #require(refusal(certificates.files([.coordinator], validity: .toCome))).contains("is not valid yet"))
        try certificates.write(String(repeating: "x", count: 1 << 20 + 1), to: good.authority)
        #expect(try #require(refusal(good)).contains("more than 1048576 bytes"))
    }

    @Test("a world-readable key is refused")
    func openKey() throws {
        let files = try certificates.files([.coordinator])
        try FileManager.default.setAttributes([.posixPermissions: 0o644], ofItemAtPath: files.key)
        #expect(try #require(refusal(files)).contains("chmod 600"))
        // As systemd passes credentials to a user that does not own them.
        try FileManager.default.setAttributes([.posixPermissions: 0o440], ofItemAtPath: files.key)
        #expect(refusal(files) == nil)
    }

    @Test("a reload takes new files, and keeps the old ones when the new are no good")
    func reload() throws {
        let files = try certificates.files([.coordinator], validity: .days(1))
        let credentials = try TLSCredentials(files, for: .coordinator)
        let end = credentials.notAfter
        #expect(try !credentials.reload(files))
        let longer = try certificates.files([.coordinator], validity: .days(30))
        #expect(try credentials.reload(longer))
        #expect(credentials.notAfter > end)
        let stays = credentials.notAfter
        for bad in [
            try certificates.files([.rank(RankIndex(1))]),
            TLSFiles(authority: longer.authority, certificate: longer.certificate, key: files.key),
        ] {
            #expect(throws: ServiceError.self) { _ = try credentials.reload(bad) }
        }
        #expect(credentials.notAfter == stays && credentials.roleList == "dcp:coordinator")
    }
}
