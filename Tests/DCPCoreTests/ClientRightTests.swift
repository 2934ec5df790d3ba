// SPDX-License-Identifier: Apache-2.0

import DCPCore
import Testing

@Suite("Rights of clients")
struct ClientRightTests {
    private func refusal(_ body: () throws(ServiceError) -> Void) -> ServiceError? {
        do throws(ServiceError) { try body() } catch { return error }
        return nil
    }

    @Test("each right includes those before it, and no others", arguments: ClientRight.allCases, ClientRight.allCases)
    func order(has: ClientRight, needs: ClientRight) {
        let order: [ClientRight] = [.read, .use, .administer]
        let isEnough = order.firstIndex(of: has)! >= order.firstIndex(of: needs)!
        let refusal = refusal { () throws(ServiceError) in
            try Caller(identity: "client:alice", right: has).check(needs, for: "a step")
        }
        #expect((refusal == nil) == isEnough)
        guard let refusal else { return }
        #expect(refusal.code == .accessDenied && !refusal.isRetryable)
        for part in [
            "client:alice has the right to \(has)", "a step", "the right to \(needs)", "dcpctl certs add",
            "--rights \(needs)",
        ] {
            #expect(refusal.message.contains(part), "\(refusal.message)")
        }
    }

    @Test("a user of a Unix socket is referred to the configuration")
    func remedyOfUsers() {
        let refusal = refusal { () throws(ServiceError) in
            try Caller(identity: "uid:1000", right: .read).check(.use, for: "a step")
        }
        #expect(refusal?.message.contains("`rights` in the dcp.yaml") == true)
    }

    @Test(
        "a sequence may be changed by its creator with the right to use, by administrators, and without an owner by all users"
    )
    func owners() {
        func caller(_ right: ClientRight) -> Caller { Caller(identity: "client:alice", right: right) }
        for owner in ["client:alice", "client:bob", ""] {
            #expect(!caller(.read).mayChange(ownedBy: owner))
            #expect(caller(.use).mayChange(ownedBy: owner) == (owner != "client:bob"))
            #expect(caller(.administer).mayChange(ownedBy: owner))
        }
        let refusal = refusal { () throws(ServiceError) in
            try caller(.use).checkChange(of: "sequence `s`", ownedBy: "client:bob")
        }
        for part in ["sequence `s`", "client:bob", "client:alice", "--rights administer"] {
            #expect(refusal?.message.contains(part) == true, "\(refusal?.message ?? "")")
        }
    }

    @Test("a right in a role's URI is written one way, and everything by its absence")
    func uri() {
        for (uri, role) in [
            ("dcp:client:a", CertificateRole.client("a")), ("dcp:client:a:read", .client("a", .read)),
            ("dcp:client:a:use", .client("a", .use)),
        ] { #expect(CertificateRole(uri: uri) == role && role.uri == uri) }
        for uri in [
            "dcp:client:a:administer", "dcp:client:a:", "dcp:client:a:Read", "dcp:client::read",
            "dcp:client:a:read:use",
            "dcp:rank:1:read", "dcp:coordinator:read",
        ] { #expect(CertificateRole(uri: uri) == nil, "\(uri)") }
    }
}
