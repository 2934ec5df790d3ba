// SPDX-License-Identifier: Apache-2.0

import DCPCertificates
import DCPCore
import DCPTestKit
import Foundation
import Testing

@Suite("Certificates: a directory of them")
struct DirectoryTests {
    private func mode(_ path: String) throws -> Int {
        try #require(try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int)
    }

    private func contents(_ path: String) throws -> [String: Data] {
        var files: [String: Data] = [:]
        for name in try FileManager.default.contentsOfDirectory(atPath: path) {
            files[name] = try Data(contentsOf: URL(filePath: "\(path)/\(name)"))
        }
        return files
    }

    @Test("init writes a pair for each role, keys for their owner alone, and nothing else")
    func create() throws {
        let temporary = TemporaryDirectory()
        let directory = CertificateDirectory(path: temporary.path("c/"))
        let files = try directory.create(ranks: 11, clients: ["bob", "alice"])
        #expect(
            files.map(\.path)
                == (["ca", "client-alice", "client-bob", "coordinator"] + (0..<11).map { "rank-\($0)" })
                .map { directory.certificate($0) })
        #expect(files.first?.certificates.first?.isAuthority == true)
        for file in files {
            let key = try #require(file.key)
            #expect(key.matches == true && key.mode == 0o600 && !key.isOpenToOthers)
            #expect(try mode(file.path) == 0o644 && mode(key.path) == 0o600)
            #expect(try file.isIssued(by: files[0]))
        }
        #expect(files.last?.certificates.first?.roles == [.rank(RankIndex(10))])
        #expect(try mode(temporary.path("c")) == 0o755)
        #expect(try contents(temporary.path("c")).count == 2 * files.count)
        #expect(try FileManager.default.contentsOfDirectory(atPath: temporary.path) == ["c"])
    }

    @Test("nothing is overwritten: not a directory, not an empty one, not a file, not a certificate")
    func overwriting() throws {
        let temporary = TemporaryDirectory()
        let directory = CertificateDirectory(path: temporary.path("c"))
        _ = try directory.create(ranks: 1, clients: ["a"])
        let before = try contents(directory.path)
        try Data("x".utf8).write(to: URL(filePath: temporary.path("file")))
        try FileManager.default.createSymbolicLink(
            atPath: temporary.path("link"), withDestinationPath: temporary.path("nowhere"))
        for name in ["c", "file", "link"] {
            let error = #expect(throws: ServiceError.self) {
                try CertificateDirectory(path: temporary.path(name)).create(ranks: 1, clients: [])
            }
            #expect(error?.code == .conflict && error?.message.contains(temporary.path(name)) == true)
        }
        for (ranks, clients) in [([RankIndex(0)], ["new"]), ([], ["new", "a"])] {
            let error = #expect(throws: ServiceError.self) { try directory.add(ranks: ranks, clients: clients) }
            #expect(error?.code == .conflict)
        }
        #expect(try contents(directory.path) == before)
        #expect(
            try FileManager.default.contentsOfDirectory(atPath: temporary.path).sorted() == ["c", "file", "link"])
    }

    @Test("a failure leaves nothing behind and names the file")
    func failures() throws {
        let temporary = TemporaryDirectory()
        for clients in [["../x"], ["a", "a"], ["x-key"], [""], [String(repeating: "a", count: 65)], ["ä"]] {
            #expect(throws: ServiceError.self) {
                try CertificateDirectory(path: temporary.path("c")).create(ranks: 1, clients: clients)
            }
        }
        let missing = temporary.path("no/c")
        let error = #expect(throws: ServiceError.self) {
            try CertificateDirectory(path: missing).create(ranks: 1, clients: [])
        }
        #expect(error?.code == .invalidRequest && error?.message.contains(missing) == true)
        #expect(try FileManager.default.contentsOfDirectory(atPath: temporary.path).isEmpty)
        let empty = #expect(throws: ServiceError.self) { try CertificateFile.all(at: temporary.path) }
        #expect(empty?.message.contains("certs init") == true)
    }

    @Test("add makes certificates by the same authority, and leaves the others alone")
    func add() throws {
        let temporary = TemporaryDirectory()
        let directory = CertificateDirectory(path: temporary.path("c"))
        let authority = try directory.create(ranks: 1, clients: [])[0]
        let before = try contents(directory.path)
        let added = try directory.add(ranks: [RankIndex(1)], clients: ["carol"], days: 5)
        #expect(added.flatMap { $0.certificates[0].roles } == [.rank(RankIndex(1)), .client("carol")])
        #expect(try added.allSatisfy { try $0.isIssued(by: authority) && $0.key?.mode == 0o600 })
        let after = try contents(directory.path)
        #expect(after.count == before.count + 4 && before.allSatisfy { after[$0.key] == $0.value })
    }

    @Test("renew replaces the certificates, and neither the keys nor the authority")
    func renew() throws {
        let temporary = TemporaryDirectory()
        let directory = CertificateDirectory(path: temporary.path("c"))
        let old = try directory.create(ranks: 2, clients: ["a"], days: 1)
        let before = try contents(directory.path)
        let new = try directory.renew(days: 100)
        let after = try contents(directory.path)
        #expect(before.keys == after.keys)
        for name in before.keys {
            let stays = name.hasSuffix("-key.pem") || name == "ca.pem"
            #expect((before[name] == after[name]) == stays, "\(name)")
        }
        for (old, new) in zip(old, new).dropFirst() {
            let (old, other) = (old.certificates[0], new.certificates[0])
            #expect(old.roles == other.roles && old.serial != other.serial)
            #expect(other.validity.notAfter > old.validity.notAfter + 98 * 86400)
            #expect(new.key?.matches == true)
        }
    }

    @Test("renew changes nothing when one certificate is not the authority's, or the key is elsewhere")
    func renewRefused() throws {
        let temporary = TemporaryDirectory()
        let directory = CertificateDirectory(path: temporary.path("c"))
        _ = try directory.create(ranks: 1, clients: [])
        let stranger = try CertificateAuthority.make().issue([.client("z")])
        try stranger.write(to: directory.certificate("client-z"), key: directory.key("client-z"))
        let before = try contents(directory.path)
        let error = #expect(throws: ServiceError.self) { try directory.renew() }
        #expect(error?.message.contains("client-z.pem") == true)
        #expect(try contents(directory.path) == before)
        try FileManager.default.removeItem(atPath: directory.key("ca"))
        let missing = #expect(throws: ServiceError.self) { try directory.renew() }
        #expect(missing?.message.contains("ca-key.pem") == true)
    }

    @Test("a key that others may read, and a key of another certificate, are reported")
    func keys() throws {
        let temporary = TemporaryDirectory()
        let directory = CertificateDirectory(path: temporary.path("c"))
        _ = try directory.create(ranks: 2, clients: [])
        let key = directory.key("rank-0")
        chmod(key, 0o640)
        #expect(try CertificateFile(path: directory.certificate("rank-0")).key?.isOpenToOthers == true)
        let other = try CertificateFile(path: directory.certificate("rank-0"), key: directory.key("rank-1"))
        #expect(other.key?.matches == false)
        try Data("damage".utf8).write(to: URL(filePath: key))
        let error = #expect(throws: ServiceError.self) {
            try CertificateFile(path: directory.certificate("rank-0"))
        }
        #expect(error?.message.contains(key) == true)
    }

    @Test(
        "roles are read only as they are written",
        arguments: [
            "dcp:coordinator", "dcp:rank:0", "dcp:rank:1023", "dcp:client:alice",
        ])
    func roles(uri: String) { #expect(CertificateRole(uri: uri)?.uri == uri) }

    @Test(
        "a text that is not a role is refused",
        arguments: [
            "", "dcp:", "dcp:rank", "dcp:rank:", "dcp:rank:-1", "dcp:rank:+1", "dcp:rank:01", "dcp:rank:65536",
            "dcp:rank:1:2",
            "DCP:rank:1", "dcp:client:", "dcp:client:a/b", "dcp:client:.a", "dcp:coordinator:0",
            "https://dcp:coordinator",
        ])
    func noRoles(uri: String) { #expect(CertificateRole(uri: uri) == nil) }
}
