// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPWire
import Foundation
import Testing

/// The frames that clients in other languages decode and encode in their tests, so that no codec drifts from the others.
@Suite("Frames: the samples of other languages")
struct FixtureTests {
    private static let path = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .appending(path: "Fixtures/wire-frames.json")

    /// One frame a line, so that a difference shows which.
    private static func text() throws -> String {
        let lines = try Samples.messages().map { message in
            let bytes = encoded(Samples.frame(message)).map { byte in
                let digits = String(byte, radix: 16)
                return digits.count == 1 ? "0" + digits : digits
            }
            return #"  {"type": \#(message.type.rawValue), "name": "\#(message.type)", "frame": "\#(bytes.joined())"}"#
        }
        return "[\n" + lines.joined(separator: ",\n") + "\n]\n"
    }

    @Test("Tests/Fixtures/wire-frames.json has every sample as it is encoded now; DCP_WRITE_FIXTURES=1 writes it anew")
    func samples() throws {
        let text = try Self.text()
        if ProcessInfo.processInfo.environment["DCP_WRITE_FIXTURES"] != nil {
            try Data(text.utf8).write(to: Self.path)
        }
        #expect(try String(contentsOf: Self.path, encoding: .utf8) == text)
    }
}
