// SPDX-License-Identifier: Apache-2.0

import DCPCertificates
import DCPCore
import DCPTestKit
import DCPTransport
import DCPWire
import NIOCore
import NIOSSL
import Testing

/// Two sides that speak TLS, and what each refuses.
@Suite("Links over TLS", .timeLimit(.minutes(1)))
struct SecureLinkTests {
    private let certificates: TestCertificates
    private static let rank0 = CertificateRole.rank(RankIndex(0))

    init() throws { certificates = try TestCertificates() }

    private func settings(_ role: CertificateRole, believes other: TestCertificates? = nil) throws -> LinkSettings {
        LinkSettings(tls: try certificates.credentials(role, believes: other))
    }

    private func withCoordinator(_ body: (Station, Endpoint) async throws -> Void) async throws {
        try await withStation(
            Endpoint("tcp:127.0.0.1:0"), settings: try settings(.coordinator), body)
    }

    @Test("frames of every size go through, both ways")
    func frames() async throws {
        try await withCoordinator { station, endpoint in
            let client = try await station.dial(endpoint, settings: try settings(.client("a")))
            _ = try await (client.opened(), station.recorder.opened())
            for byteCount in [0, 4, 1 << 14, 65_535 * 4] {
                let payload = ByteBuffer(repeating: 7, count: byteCount)
                try await station.on(client) { try $0.send(frame(1, payload)) }
                #expect(try await station.recorder.frame().message.payloadByteCount == byteCount)
                try await station.on(station.recorder) { try $0.send(frame(2, payload)) }
                #expect(try await client.frame().message.payloadByteCount == byteCount)
            }
        }
    }

    @Test("a peer with another role, or from another authority, receives no hello")
    func wrongServer() async throws {
        try await withCoordinator { station, endpoint in
            let mistaken = try await station.dial(endpoint, settings: try settings(.client("a")), expecting: Self.rank0)
            let denied = try await mistaken.closed()
            #expect(denied.code == .accessDenied && denied.message.contains("dcp:coordinator, not for dcp:rank:0"))
            _ = try await station.recorder.closed()

            let other = try TestCertificates()
            let distrustful = try await station.dial(
                endpoint, settings: LinkSettings(tls: try certificates.credentials(.client("a"), believes: other)))
            let error = try await distrustful.closed()
            #expect(
                error.code == .accessDenied
                    && error.message.contains(
                        "is not signed by an authority in tls-ca"),
                "\(error)")
            _ = try await station.recorder.closed()
            #expect(try await station.refused()[.failedHandshake] == 1)
        }
    }

    @Test("a certificate of another role is refused with the reason, before the listener's owner sees the link")
    func wrongRole() async throws {
        try await withCoordinator { station, endpoint in
            let claims = Hello(role: .rank, rank: RankIndex(1), fingerprint: nil)
            for role in [CertificateRole.client("a"), Self.rank0] {
                let peer = try await station.dial(endpoint, hello: claims, settings: try settings(role))
                let denied = try await peer.closed()
                #expect(denied.code == .accessDenied && denied.message.contains(role.uri), "\(denied)")
                #expect(try await station.recorder.closed() == denied)
            }
            #expect(try await station.refused()[.wrongRole] == 2)
        }
    }

    /// What a stranger shows.
    private func stranger(_ files: TLSFiles?) throws -> NIOSSLContext {
        var configuration = TLSConfiguration.makeClientConfiguration()
        configuration.certificateVerification = .none
        if let files {
            configuration.certificateChain = try NIOSSLCertificate.fromPEMFile(files.certificate).map {
                .certificate($0)
            }
            configuration.privateKey = .privateKey(try NIOSSLPrivateKey(file: files.key, format: .pem))
        }
        return try NIOSSLContext(configuration: configuration)
    }

    @Test("no certificate, another authority's, one that is over or to come: refused by cause, and others are served")
    func badCertificates() async throws {
        let other = try TestCertificates()
        let strangers: [(TLSFiles?, RefusalCause)] = [
            (nil, .noCertificate), (try other.files([.client("a")]), .unknownAuthority),
            (try certificates.files([.client("a")], validity: .over), .expired),
            (try certificates.files([.client("a")], validity: .toCome), .expired),
        ]
        try await withCoordinator { station, endpoint in
            for (files, cause) in strangers {
                let before = try await station.refused()[cause]
                let peer = try await RawPeer(endpoint, on: station.group, tls: try stranger(files))
                // TLS 1.3: this side is done before the other has looked at its certificate.
                try? await peer.send(RawPeer.hello)
                #expect(try await peer.frames(1).isEmpty)
                #expect(try await station.recorder.closed().code == .accessDenied)
                #expect(try await station.refused()[cause] == before + 1, "\(cause)")
            }
            let client = try await station.dial(endpoint, settings: try settings(.client("a")))
            _ = try await (client.opened(), station.recorder.opened())
            #expect(try await station.refused().total == UInt64(strangers.count))
        }
    }

    @Test("plain bytes are refused at the first byte; a dcp peer gets the reason in the protocol")
    func plainText() async throws {
        try await withCoordinator { station, endpoint in
            for text in ["GET / HTTP/1.1\r\n\r\n", "D", "\u{15}\u{3}"] {
                let peer = try await RawPeer(endpoint, on: station.group)
                try await peer.send(Array(text.utf8))
                #expect(try await peer.frames(1).isEmpty)
                #expect(try await station.recorder.closed().code == .accessDenied)
            }
            let plain = try await station.dial(endpoint)
            let told = try await plain.closed()
            #expect(told.code == .accessDenied && told.message.contains("TLS") && told.message.contains("tls-ca"))
            _ = try await station.recorder.closed()
            #expect(try await station.refused()[.plainText] == 4)
        }
    }

    @Test("a client with TLS at a port without TLS gets the reason")
    func plainServer() async throws {
        try await withStation(Endpoint("tcp:127.0.0.1:0")) { station, endpoint in
            let client = try await station.dial(endpoint, settings: try settings(.client("a")))
            let error = try await client.closed()
            #expect(error.message.contains("does not speak TLS"), "\(error)")
        }
    }

    @Test("handshakes that do not end, and bytes without end, are cut off at the limits")
    func slowAndLong() async throws {
        var limited = try settings(.coordinator)
        limited.handshakeTimeout = .milliseconds(200)
        try await withStation(Endpoint("tcp:127.0.0.1:0"), settings: limited) { station, endpoint in
            let slow = try await RawPeer(endpoint, on: station.group)
            // A handshake record of 512 bytes, of which the first few come.
            // Where the machine is busy the connection may be closed before they do.
            try? await slow.send([22, 3, 1, 2, 0, 1] as [UInt8])
            #expect(try await station.recorder.closed().code == .deadlineExceeded)
            try await slow.closed()
            #expect(try await station.refused()[.timeout] == 1)
        }
        limited.handshakeTimeout = .seconds(60)
        limited.admission.handshakeByteCountMax = 8 << 10
        try await withStation(Endpoint("tcp:127.0.0.1:0"), settings: limited) { station, endpoint in
            let long = try await RawPeer(endpoint, on: station.group)
            // A client hello that goes on for 64 KiB, in records of 1 KiB.
            let hello: [UInt8] = [1, 0, 0xFF, 0xFF] + [UInt8](repeating: 0, count: 1020)
            try? await long.send([22, 3, 1, 4, 0] + hello)
            for _ in 0..<16 {
                try? await long.send([22, 3, 1, 4, 0] + [UInt8](repeating: 0, count: 1024))
            }
            let error = try await station.recorder.closed()
            let counts = try await station.refused()
            #expect(counts[.oversizedHello] + counts[.failedHandshake] == 1, "\(error)")
        }
    }

    @Test("after a reload new connections use the new authority, and open ones stay")
    func reload() async throws {
        let credentials = try certificates.credentials(.coordinator)
        let other = try TestCertificates()
        try await withStation(Endpoint("tcp:127.0.0.1:0"), settings: LinkSettings(tls: credentials)) {
            station, endpoint in
            let old = try await station.dial(endpoint, settings: try settings(.client("a")))
            _ = try await (old.opened(), station.recorder.opened())
            _ = try credentials.reload(other.files([.coordinator]))
            let new = try await station.dial(
                endpoint, settings: LinkSettings(tls: try other.credentials(.client("a"))))
            _ = try await (new.opened(), station.recorder.opened())
            let late = try await station.dial(
                endpoint, settings: LinkSettings(tls: try certificates.credentials(.client("a"), believes: other)))
            #expect(try await late.closed().code == .accessDenied)
            #expect(try await station.recorder.closed().code == .accessDenied)
            try await station.on(old) { try $0.send(frame(3)) }
            _ = try await station.recorder.frame()
        }
    }

    @Test("Unix sockets need no certificate; plain TCP to another machine is not dialled")
    func elsewhere() async throws {
        let directory = TemporaryDirectory(in: "/tmp")
        let settings = try settings(.coordinator)
        try await withStation(.unix(path: directory.path("s")), settings: settings) { station, endpoint in
            let client = try await station.dial(endpoint)
            _ = try await client.opened()
            let nowhere = try await station.dial(try Endpoint("tcp:192.0.2.1:7400"))
            guard case .failed(let error) = await nowhere.next() else {
                Issue.record("plain TCP was dialled")
                return
            }
            #expect(error.code == .invalidConfiguration && error.message.contains("tls-ca"))
        }
    }
}
