// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import Foundation

/// A named pipe that child processes write lines to: how a test waits for what they do.
public final class EventPipe: Sendable {
    public let path: String
    private let descriptor: Int32

    public init(_ path: String) throws {
        self.path = path
        guard mkfifo(path, 0o600) == 0 else { throw ServiceError(.internal, "mkfifo") }
        // Open for writing too: neither side then waits for the other to open, and reads never end.
        descriptor = open(path, O_RDWR | O_CLOEXEC)
    }

    deinit { close(descriptor) }

    /// The next line; waits for it.
    public func next() -> String {
        var line: [UInt8] = []
        var byte: UInt8 = 0
        while read(descriptor, &byte, 1) == 1, byte != UInt8(ascii: "\n") { line.append(byte) }
        return String(decoding: line, as: UTF8.self)
    }
}
