// SPDX-License-Identifier: Apache-2.0

internal import Foundation

/// A temporary directory for one test, removed with this object.
public final class TemporaryDirectory: Sendable {
    public let path: String

    /// - Parameter parent: where to make it; the system's place for temporary files unless given.
    public init(in parent: String? = nil) {
        var parent = parent ?? NSTemporaryDirectory()
        if parent.hasSuffix("/") { parent.removeLast() }
        path = "\(parent)/dcp-test-\(UUID().uuidString.prefix(8))"
        do {
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        } catch {
            preconditionFailure("cannot make the temporary directory \(path): \(error)")
        }
    }

    /// The path of a file or directory in it, which need not exist.
    public func path(_ name: String) -> String { "\(path)/\(name)" }

    /// The names of everything in it, sorted.
    public func contents() throws -> [String] { try FileManager.default.contentsOfDirectory(atPath: path).sorted() }

    // A test that fails to clean up after itself has still tested what it tested.
    deinit { try? FileManager.default.removeItem(atPath: path) }
}
