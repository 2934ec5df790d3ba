// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPTransport
import Testing

@Suite("Endpoint: what an address may be")
struct EndpointTests {
    @Test(
        "texts come back as they were",
        arguments: ["unix:/run/dcp/rank-0.sock", "tcp:127.0.0.1:7400", "tcp:[::1]:0", "tcp:host.example:65535"])
    func roundTrip(text: String) throws { #expect("\(try Endpoint(text))" == text) }

    @Test(
        "other texts are refused with the text and an example",
        arguments: [
            "", "unix", "/run/x.sock", "tcp:", "tcp:7400", "tcp::7400", "tcp:127.0.0.1", "tcp:127.0.0.1:",
            "tcp:127.0.0.1:65536", "tcp:127.0.0.1:-1", "http://x", "udp:1.2.3.4:5",
        ])
    func malformed(text: String) throws {
        let error = try #require(throws: ServiceError.self) { try Endpoint(text) }
        #expect(error.code == .invalidConfiguration)
        #expect(error.message.contains("`\(text)`") && error.message.contains("unix:/run/dcp/rank-0.sock"))
    }

    @Test("a socket path has 1 to 107 bytes, counted in UTF-8")
    func pathLength() throws {
        _ = try Endpoint("unix:" + String(repeating: "p", count: 107))
        for path in ["", String(repeating: "p", count: 108), String(repeating: "ü", count: 54), "a\0b"] {
            let error = try #require(throws: ServiceError.self) { try Endpoint("unix:" + path) }
            #expect(error.message.contains("\(path.utf8.count) bytes") && error.message.contains("1...107"))
        }
    }

    @Test("plain TCP is for loopback, and only when it was asked for; a Unix socket always is")
    func plainTCP() throws {
        try Endpoint("unix:/x").checkPlainAllowed(insecureLoopbackOnly: false)
        for text in ["tcp:127.0.0.1:1", "tcp:127.9.9.9:1", "tcp:[::1]:1"] {
            let endpoint = try Endpoint(text)
            try endpoint.checkPlainAllowed(insecureLoopbackOnly: true)
            let error = try #require(throws: ServiceError.self) {
                try endpoint.checkPlainAllowed(insecureLoopbackOnly: false)
            }
            #expect(error.message.contains(text) && error.message.contains("--insecure-loopback-only"))
        }
        for text in [
            "tcp:0.0.0.0:1", "tcp:10.0.0.1:1", "tcp:[::]:1", "tcp:[fe80::1]:1", "tcp:localhost:1",
            "tcp:127.evil.example:1",
        ] {
            for asked in [true, false] {
                let error = try #require(throws: ServiceError.self) {
                    try Endpoint(text).checkPlainAllowed(insecureLoopbackOnly: asked)
                }
                #expect(error.message.contains(text) && error.message.contains("loopback"))
            }
        }
    }
}
