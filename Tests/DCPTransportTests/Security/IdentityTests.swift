// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPTransport
import DCPWire
import Testing

@Suite("Roles of certificates")
struct IdentityTests {
    private static func identity(_ roles: CertificateRole...) -> TLSIdentity {
        TLSIdentity(roles: Set(roles), notBefore: 100, notAfter: 200)
    }

    private static func denial(_ body: () throws(ServiceError) -> Void) -> ServiceError? {
        do throws(ServiceError) { try body() } catch { return error }
        return nil
    }

    private static let client = Hello(role: .client, fingerprint: nil)
    private static let coordinator = Hello(role: .coordinator, fingerprint: nil)
    private static func rank(_ index: UInt16) -> Hello {
        Hello(role: .rank, rank: RankIndex(index), fingerprint: nil)
    }

    struct Claim: Sendable {
        var roles: [CertificateRole]
        var hello: Hello
        var acceptor: CertificateRole
        var isAllowed: Bool
    }

    private static let rank0 = CertificateRole.rank(RankIndex(0)), rank3 = CertificateRole.rank(RankIndex(3))

    static let claims = [
        Claim(roles: [.client("a")], hello: client, acceptor: .coordinator, isAllowed: true),
        Claim(roles: [.client("a")], hello: client, acceptor: rank0, isAllowed: true),
        Claim(roles: [.client("a")], hello: rank(3), acceptor: .coordinator, isAllowed: false),
        Claim(roles: [.client("a")], hello: coordinator, acceptor: rank0, isAllowed: false),
        Claim(roles: [rank3], hello: rank(3), acceptor: .coordinator, isAllowed: true),
        Claim(roles: [rank3], hello: rank(3), acceptor: rank0, isAllowed: true),
        Claim(roles: [rank3], hello: rank(2), acceptor: .coordinator, isAllowed: false),
        // It asks for the shape, and for nothing else.
        Claim(roles: [rank3], hello: client, acceptor: .coordinator, isAllowed: true),
        Claim(roles: [rank3], hello: client, acceptor: rank0, isAllowed: false),
        // With a canary.
        Claim(roles: [.coordinator], hello: client, acceptor: rank0, isAllowed: true),
        Claim(roles: [.coordinator], hello: rank(0), acceptor: rank0, isAllowed: false),
        Claim(roles: [], hello: client, acceptor: .coordinator, isAllowed: false),
        Claim(roles: [rank0, rank3], hello: rank(0), acceptor: rank3, isAllowed: true),
        Claim(roles: [rank0, .client("a")], hello: client, acceptor: rank3, isAllowed: true),
    ]

    @Test("the accepting side demands the role that the hello claims", arguments: claims)
    func claim(claim: Claim) {
        let identity = TLSIdentity(roles: Set(claim.roles), notBefore: 0, notAfter: .max)
        let denial = Self.denial { () throws(ServiceError) in
            try identity.check(claim.hello, acceptedBy: claim.acceptor)
        }
        #expect((denial == nil) == claim.isAllowed)
        guard let denial else { return }
        #expect(denial.code == .accessDenied && !denial.isRetryable)
        #expect(denial.message.contains(identity.roleList) && denial.message.contains(claim.hello.sender))
    }

    @Test("the dialling side demands the role that it dialled, including the rank's number")
    func dialled() {
        for (identity, role, isAllowed) in [
            (Self.identity(Self.rank3), Self.rank3, true), (Self.identity(Self.rank3), Self.rank0, false),
            (Self.identity(.coordinator), .coordinator, true), (Self.identity(.client("a")), .coordinator, false),
            (Self.identity(), .coordinator, false), (Self.identity(.coordinator, Self.rank0), Self.rank0, true),
        ] {
            let denial = Self.denial { () throws(ServiceError) in try identity.check(is: role) }
            #expect((denial == nil) == isAllowed, "\(identity.roleList) for \(role.uri)")
            if let denial { #expect(denial.message.contains(role.uri)) }
        }
    }

    @Test("a certificate is valid from its first second to its last")
    func dates() {
        let identity = Self.identity(.coordinator)
        #expect(![99, 201].contains { identity.isValid(at: $0) })
        #expect([100, 150, 200].allSatisfy { identity.isValid(at: $0) })
        #expect(!TLSIdentity(roles: [], notBefore: 200, notAfter: 100).isValid(at: 150))
    }
}
