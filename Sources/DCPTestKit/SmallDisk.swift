// SPDX-License-Identifier: Apache-2.0

internal import Foundation
internal import Glibc

/// A file system of its own, in memory and as large as a test wants it. It goes with this object.
public final class SmallDisk {
    private let directory = TemporaryDirectory()

    /// - Returns: nil unless this process may mount one, as root may.
    public init?(byteCount: Int) {
        guard geteuid() == 0, mount("tmpfs", directory.path, "tmpfs", 0, "size=\(byteCount)") == 0 else { return nil }
    }

    public func path(_ name: String) -> String { directory.path(name) }

    /// Takes what is left, to the last byte.
    public func fill() throws {
        let descriptor = Glibc.open(path("ballast"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw CocoaError(.fileWriteUnknown) }
        defer { Glibc.close(descriptor) }
        let bytes = [UInt8](repeating: 1, count: 4096)
        while write(descriptor, bytes, bytes.count) > 0 {}
        guard errno == ENOSPC else { throw CocoaError(.fileWriteUnknown) }
    }

    deinit { umount2(directory.path, Int32(MNT_DETACH)) }
}
