// SPDX-License-Identifier: Apache-2.0

import DCPCertificates
import DCPCore
import Foundation
import SwiftASN1
import Testing
@_spi(FixedExpiryValidationTime) import X509

/// What was issued, as a TLS peer sees it: parsed from PEM and judged by the library's verifier, not by our own reading.
@Suite("Certificates: what the authority issues")
struct ChainTests {
    private func verify(
        _ leaf: KeyedCertificate, by authority: CertificateAuthority, at time: Date = Date()
    ) async throws -> Bool {
        let root = try Certificate(pemEncoded: authority.issuer.certificatePEM)
        var verifier = Verifier(rootCertificates: CertificateStore([root])) {
            RFC5280Policy(fixedExpiryValidationTime: time)
        }
        let result = await verifier.validate(
            leaf: try Certificate(pemEncoded: leaf.certificatePEM), intermediates: CertificateStore([]))
        if case .validCertificate(let chain) = result { return chain.count == 2 } else { return false }
    }

    @Test("a leaf is valid under its authority, and under no other")
    func chain() async throws {
        let (own, other) = (try CertificateAuthority.make(), try CertificateAuthority.make())
        let leaf = try own.issue([.rank(RankIndex(3))])
        #expect(try await verify(leaf, by: own))
        #expect(try await !verify(leaf, by: other))
        let twin = try CertificateAuthority(
            KeyedCertificate(certificatePEM: own.issuer.certificatePEM, keyPEM: own.issuer.keyPEM))
        #expect(try await verify(twin.issue([.coordinator]), by: own))
    }

    @Test("a leaf is valid from an hour ago to its last day, and an expired one can be made")
    func validity() async throws {
        let (now, day): (Int64, Int64) = (CertificateValidity.now, 86400)
        let authority = try CertificateAuthority.make(
            validity: CertificateValidity(notBefore: now - 3 * day, notAfter: now + 3650 * day))
        let leaf = try authority.issue([.coordinator])
        for (offset, expected) in [
            (-2 * 3600, false), (-3000, true), (364 * day, true), (366 * day, false), (3651 * day, false),
        ] {
            #expect(try await verify(leaf, by: authority, at: Date() + Double(offset)) == expected, "\(offset) s")
        }
        let expired = try authority.issue(
            [.coordinator], validity: CertificateValidity(notBefore: now - 2 * day, notAfter: now - day))
        #expect(try await !verify(expired, by: authority))
        #expect(try await verify(expired, by: authority, at: Date() - 1.5 * 86400))
    }

    @Test("a leaf does not outlive its authority")
    func outlive() throws {
        let authority = try CertificateAuthority.make(validity: .days(10))
        let error = #expect(throws: ServiceError.self) { try authority.issue([.coordinator], validity: .days(11)) }
        #expect(error?.code == .invalidRequest && error?.message.contains("9 days") == true, "\(error?.message ?? "")")
        let now = CertificateValidity.now
        _ = try CertificateAuthority.make(validity: .days(30, from: now)).issue(
            [.coordinator], validity: .days(30, from: now))
    }

    @Test("roles, names, usages and serial number are in the certificate, once parsed")
    func extensions() throws {
        let authority = try CertificateAuthority.make()
        let roles: [CertificateRole] = [.coordinator, .rank(RankIndex(0)), .client("a.b-c_1")]
        let names = ["node1.example", "192.0.2.7", "2001:db8::1"]
        let pair = try authority.issue(roles, hostNames: names)
        let leaf = try Certificate(pemEncoded: pair.certificatePEM)
        let key = try Certificate.PrivateKey(pemEncoded: pair.keyPEM)
        #expect(leaf.publicKey == key.publicKey)
        #expect("\(key)".hasPrefix("P256"))

        let alternatives = try #require(try leaf.extensions.subjectAlternativeNames)
        #expect(
            Array(alternatives) == [
                .uniformResourceIdentifier("dcp:coordinator"), .uniformResourceIdentifier("dcp:rank:0"),
                .uniformResourceIdentifier("dcp:client:a.b-c_1"), .dnsName("node1.example"),
                .ipAddress(ASN1OctetString(contentBytes: [192, 0, 2, 7])),
                .ipAddress(
                    ASN1OctetString(contentBytes: [0x20, 1, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])),
            ])
        let usage = try #require(try leaf.extensions.extendedKeyUsage)
        #expect(Set(usage) == [.serverAuth, .clientAuth])
        #expect(try leaf.extensions.keyUsage == KeyUsage(digitalSignature: true))
        #expect(try leaf.extensions.basicConstraints == .notCertificateAuthority)
        #expect(leaf.signatureAlgorithm == .ecdsaWithSHA256)

        let description = try #require(try CertificateDescription.read(pem: pair.certificatePEM).first)
        #expect(description.roles == roles && description.hostNames == names && !description.isAuthority)
        #expect(description.issuer == "\(try Certificate(pemEncoded: authority.issuer.certificatePEM).subject)")
    }

    @Test("serial numbers are 20 bytes that ASN.1 keeps at 20, and differ")
    func serials() throws {
        let authority = try CertificateAuthority.make()
        let serials = try (0..<64).map { _ in
            try Certificate(pemEncoded: authority.issue([.coordinator]).certificatePEM).serialNumber.bytes
        }
        #expect(Set(serials).count == 64)
        #expect(serials.allSatisfy { $0.count == 20 && $0.first! >= 0x40 && $0.first! < 0x80 })
    }

    @Test("a renewed certificate has the old one's key, roles and names, and a new serial number")
    func renewal() async throws {
        let authority = try CertificateAuthority.make()
        let old = try authority.issue([.rank(RankIndex(7)), .client("x")], hostNames: ["h"], validity: .days(1))
        let new = try authority.renew(old)
        #expect(try new.keyPEM == old.keyPEM)
        let (before, after) = (
            try #require(try CertificateDescription.read(pem: old.certificatePEM).first),
            try #require(try CertificateDescription.read(pem: new.certificatePEM).first)
        )
        #expect(before.roles == after.roles && before.hostNames == after.hostNames && before.serial != after.serial)
        #expect(after.validity.notAfter > before.validity.notAfter)
        #expect(try await verify(new, by: authority))
    }

    @Test("a leaf is no authority, and a key of another certificate is refused")
    func pairs() throws {
        let authority = try CertificateAuthority.make()
        let (a, b) = (try authority.issue([.coordinator]), try authority.issue([.coordinator]))
        #expect(throws: ServiceError.self) { try CertificateAuthority(a) }
        let error = #expect(throws: ServiceError.self) {
            try KeyedCertificate(certificatePEM: a.certificatePEM, keyPEM: b.keyPEM)
        }
        #expect(error?.message.contains("does not match") == true)
        for text in ["", "no PEM", try a.keyPEM] {
            #expect(throws: ServiceError.self) { try CertificateDescription.read(pem: text) }
            #expect(throws: ServiceError.self) { try KeyedCertificate(certificatePEM: text, keyPEM: a.keyPEM) }
        }
    }
}
