// SPDX-License-Identifier: Apache-2.0

import DCPCertificates
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPTransport
import DCPWire
import Foundation
import Glibc
import Testing

extension Integration {
    /// Who has no business with a cluster over TLS: each is refused, counted and told of, and steps go on.
    @Suite("strangers at TLS ports", .serialized, .timeLimit(.minutes(5)))
    struct TLSStrangerTests {
        private static func hello(_ role: Hello.Role, _ rank: UInt16? = nil) -> [UInt8] {
            RawConnection.bytes(
                Frame(
                    epoch: .none, tag: Tag(client: ClientID(0), number: 0),
                    message: .hello(Hello(role: role, rank: rank.map { RankIndex($0) }, fingerprint: nil))))
        }

        /// `@unchecked Sendable`: one thread makes them, and when that has ended another reads.
        private struct Crowd: @unchecked Sendable {
            let connections: [RawConnection]
        }

        private static let roles: [DaemonRole] = [.coordinator, .rank(RankIndex(0)), .rank(RankIndex(1))]

        @Test("no certificate, another authority's, another role's, an old one, plain bytes: each refused by its cause")
        func strangers() async throws {
            let trace = Trace(try shape(4, 2, 16, 16, .bfloat16), tokens: 60, salt: 4200)
            try await SecureCluster.run { secure in
                let cluster = secure.cluster
                let other = CertificateDirectory(path: cluster.directory.path("other"))
                _ = try other.create(ranks: 1, clients: ["alice"])
                let old = CertificateValidity(
                    notBefore: CertificateValidity.now - 7200, notAfter: CertificateValidity.now - 60)
                let expired = try secure.issue([SecureCluster.client], validity: old, as: "expired")
                let alice = SecureCluster.files(of: SecureCluster.client, in: secure.certificates)
                let rank1 = SecureCluster.files(of: .rank(RankIndex(1)), in: secure.certificates)
                let client = Self.hello(.client)
                try await secure.withClient { own in
                    let sequence = try await own.open(trace, "s")
                    var answer = Answer(try await own.step(trace, 0..<20, on: sequence))
                    var position = 20
                    func stillServes() async throws {
                        answer.append(try await own.step(trace, position..<position + 1, on: sequence))
                        position += 1
                    }
                    for (role, endpoint) in zip(Self.roles, secure.endpoints) {
                        let silent: [(TLSFiles?, String)] = [
                            (nil, "no-certificate"),
                            (SecureCluster.files(of: SecureCluster.client, in: other), "unknown-authority"),
                            (expired, "expired"),
                        ]
                        for (files, cause) in silent {
                            #expect(try await TLSStranger.send(client, to: endpoint, showing: files).isEmpty)
                            try await cluster.waitForLog(of: role, "cause: \(cause)")
                            try await stillServes()
                        }
                        var wrong = [(alice, Self.hello(.rank, 0)), (rank1, Self.hello(.rank, 0))]
                        if role != .coordinator { wrong.append((rank1, client)) }
                        for (files, hello) in wrong {
                            let frames = try await TLSStranger.send(hello, to: endpoint, showing: files)
                            guard case .failure(let error)? = frames.first?.message else {
                                Issue.record("\(endpoint) did not refuse a role")
                                continue
                            }
                            #expect(error.code == .accessDenied && error.message.contains("dcpctl certs"), "\(error)")
                            try await stillServes()
                        }
                        try await cluster.waitForRefusals(of: role, cause: "wrong-role", wrong.count)
                        let plain = [client, Array("GET / HTTP/1.1\r\n\r\n".utf8), [0, 1, 2, 3]]
                        for bytes in plain {
                            let frame = try await onOwnThread {
                                let connection = try RawConnection(endpoint)
                                connection.send(bytes)
                                return try connection.receive()
                            }
                            if case .failure(let error)? = frame?.message {
                                #expect(error.code == .accessDenied && error.message.contains("TLS"))
                            } else {
                                #expect(bytes != client, "a peer of ours is told why")
                            }
                            try await stillServes()
                        }
                        try await cluster.waitForRefusals(of: role, cause: "plain-text", plain.count)
                    }
                    answer.append(try await own.step(trace, position..<60, on: sequence))
                    trace.check([answer], "among strangers")
                }
                try await secure.tool(from: other).fails(77, saying: ["TLS"], ["status"])
                try await cluster.tool.fails(77, saying: ["TLS", "tls-ca"], ["status"])
                let status = try await secure.tool().run("status")
                #expect(status.status == 0, "\(status.messages)")
            }
        }

        @Test("a sender of one byte now and then is cut off at the deadline, while others are served")
        func slow() async throws {
            let trace = Trace(try shape(4, 2, 16, 16, .bfloat16), tokens: 20, salt: 4201)
            try await SecureCluster.run { secure in
                let endpoint = secure.cluster.local.rankEndpoints[0]
                async let isCutOff = onOwnThread {
                    let connection = try RawConnection(endpoint, receiveTimeout: timeval(tv_sec: 0, tv_usec: 200_000))
                    // The beginning of a handshake record that announces 512 bytes.
                    let bytes: [UInt8] = [22, 3, 1, 2, 0, 1, 0, 1, 0xFC] + [UInt8](repeating: 3, count: 500)
                    return bytes.contains { !connection.send([$0]) || connection.isClosedByPeer() }
                }
                try await secure.withClient { client in
                    let sequence = try await client.open(trace, "s")
                    let answer = Answer(try await client.step(trace, 0..<20, on: sequence))
                    trace.check([answer], "beside a slow sender")
                }
                #expect(try await isCutOff)
                try await secure.cluster.waitForLog(of: .rank(RankIndex(0)), "cause: timeout")
            }
        }

        @Test("a thousand connections that say nothing: their address has its share, others are served at once")
        func crowd() async throws {
            let trace = Trace(try shape(4, 2, 16, 16, .bfloat16), tokens: 20, salt: 4202)
            try await SecureCluster.run(arguments: ["--handshake-timeout", "120"]) { secure in
                let endpoints = secure.endpoints
                // The share of an address is 64 in each daemon; the rest is closed before it has sent anything.
                let held = try await onOwnThread {
                    var limit = rlimit()
                    getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
                    limit.rlim_cur = min(limit.rlim_max, 8192)
                    setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
                    return Crowd(
                        connections: try (0..<1000).map {
                            try RawConnection(
                                endpoints[$0 % 3], from: "127.0.0.2",
                                receiveTimeout: timeval(tv_sec: 0, tv_usec: 10_000))
                        })
                }
                for role in Self.roles { try await secure.cluster.waitForLog(of: role, "cause: too-many-of-peer") }
                try await secure.withClient { client in
                    let sequence = try await client.open(trace, "s")
                    let answer = Answer(try await client.step(trace, 0..<20, on: sequence))
                    trace.check([answer], "in a crowd")
                }
                // The client came after them all, so each has been decided about.
                let open = try await onOwnThread { held.connections.count { !$0.isClosedByPeer() } }
                #expect(open == 3 * 64)
            }
        }

        @Test("SIGHUP takes a new authority for new connections; files that are no good change nothing")
        func reload() async throws {
            try await SecureCluster.run { secure in
                let other = CertificateDirectory(path: secure.cluster.directory.path("other"))
                _ = try other.create(ranks: 1, clients: ["bob"])
                let bob = secure.tool(as: .client("bob"), from: other)
                #expect(try await bob.run("status").status == 77)
                let path = secure.certificates.path + "/ca.pem"
                let own = try String(contentsOfFile: path, encoding: .utf8)
                let both = own + (try String(contentsOfFile: other.path + "/ca.pem", encoding: .utf8))
                func reload(_ text: String, _ entry: String) async throws {
                    try Data(text.utf8).write(to: URL(filePath: path), options: .atomic)
                    for role in Self.roles {
                        secure.cluster.local.daemon(role)?.signal(SIGHUP)
                        try await secure.cluster.waitForLog(of: role, entry)
                    }
                }
                try await reload(both, "Certificates reloaded")
                let status = try await bob.run("health")
                #expect(status.status == 0, "\(status.messages)")
                try await reload("nonsense", "Certificates refused, keeping the current ones")
                // The file at hand is no good for clients either.
                try Data(both.utf8).write(to: URL(filePath: path), options: .atomic)
                #expect(try await bob.run("health").status == 0)
            }
        }
    }
}
