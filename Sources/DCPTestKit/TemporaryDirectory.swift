internal import Glibc

/// A directory of a test's own, with everything in it gone when this object is.
///
/// @unchecked Sendable: `path` never changes.
public final class TemporaryDirectory: @unchecked Sendable {
    public let path: String

    /// - Parameter parent: where to make it; `TMPDIR`, or `/tmp`, unless given.
    public init(in parent: String? = nil) {
        let parent = parent ?? getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
        var template = Array("\(parent)/dcp-test-XXXXXX".utf8CString)
        let made = template.withUnsafeMutableBufferPointer { mkdtemp($0.baseAddress) != nil }
        precondition(made, "cannot make a temporary directory in \(parent)")
        path = template.withUnsafeBufferPointer { buffer in
            buffer.baseAddress.map { String(cString: $0) } ?? ""
        }
    }

    /// The path of a file or directory in it.
    public func path(_ name: String) -> String { "\(path)/\(name)" }

    deinit {
        _ = nftw(
            path, { name, _, _, _ in name.map { Glibc.remove($0) } ?? 0 }, 16, FTW_DEPTH | FTW_PHYS)
    }
}
