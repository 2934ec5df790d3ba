// SPDX-License-Identifier: Apache-2.0

import DCPCertificates
import DCPCore
import DCPTestKit
import Foundation
import Testing
import dcpctl

@Suite("Doctor: certificates")
struct CertificateChecksTests {
    private let temporary = TemporaryDirectory()
    private var directory: CertificateDirectory { CertificateDirectory(path: temporary.path("c")) }

    private func checks(at path: String? = nil, in days: Int64 = 0) -> [Check] {
        CertificateChecks.checks(at: path ?? directory.path, now: CertificateValidity.now + days * 86400)
    }

    private func complaints(at path: String? = nil, in days: Int64 = 0) -> [Check] {
        checks(at: path, in: days).filter { $0.status != .ok }
    }

    @Test("a new directory passes; expiry is reported 30 days before, and when it has happened")
    func expiry() throws {
        _ = try directory.create(ranks: 1, clients: [], days: 60)
        #expect(complaints().isEmpty && checks().count == 10, "\(checks())")
        #expect(complaints(in: 29).isEmpty)
        let soon = complaints(in: 31)
        #expect(soon.count == 2 && soon.allSatisfy { $0.status == .warning && $0.remedy.contains("certs renew") })
        let over = complaints(in: 61)
        #expect(over.count == 2 && over.allSatisfy { $0.status == .failed && $0.value.contains("expired") })
        let late = complaints(in: 3649)
        #expect(late.contains { $0.subject.hasSuffix("ca.pem") && $0.remedy.contains("certs init") })
        let early = complaints(in: -1)
        #expect(early.count == 3 && early.allSatisfy { $0.status == .failed && $0.remedy.contains("clock") })
    }

    @Test("another authority's certificate, another role's, an open key and another's key fail, each by its check")
    func wrong() throws {
        _ = try directory.create(ranks: 2, clients: ["a"])
        let stranger = try CertificateAuthority.make().issue([.client("z")])
        try stranger.write(to: directory.certificate("client-z"), key: directory.key("client-z"))
        try FileManager.default.removeItem(atPath: directory.certificate("rank-0"))
        try FileManager.default.copyItem(
            atPath: directory.certificate("rank-1"), toPath: directory.certificate("rank-0"))
        chmod(directory.key("coordinator"), 0o644)
        let found = complaints()
        #expect(found.allSatisfy { $0.status == .failed && !$0.remedy.isEmpty }, "\(found)")
        #expect(
            Set(found.map { "\($0.name) \(($0.subject as NSString).lastPathComponent)" }) == [
                "issuer client-z.pem", "role rank-0.pem", "key rank-0.pem", "key coordinator.pem",
            ])
    }

    @Test("a single file is compared with the ca.pem beside it; what is no certificate fails")
    func file() throws {
        _ = try directory.create(ranks: 1, clients: [])
        #expect(complaints(at: directory.certificate("rank-0")).isEmpty)
        try FileManager.default.removeItem(atPath: directory.certificate("ca"))
        let alone = complaints(at: directory.certificate("rank-0"))
        #expect(alone.map(\.name) == ["issuer"] && alone[0].status == .warning)
        for path in [directory.key("rank-0"), temporary.path("none")] {
            let found = complaints(at: path)
            #expect(found.count == 1 && found[0].status == .failed && found[0].remedy.contains(path), "\(found)")
        }
    }
}
