// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc

/// A small file system in memory for one rank's store, which can be filled up and freed. Made by root only.
final class SmallDisk: Sendable {
    let path: String

    /// nil when none can be mounted here.
    init?(at path: String, byteCount: Int) {
        try? FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        guard geteuid() == 0, mount("tmpfs", path, "tmpfs", 0, "size=\(byteCount)") == 0 else { return nil }
        self.path = path
    }

    private var filler: String { "\(path)/filler" }

    /// Leaves no free byte.
    func fill() {
        let descriptor = open(filler, O_WRONLY | O_CREAT, 0o600)
        guard descriptor >= 0 else { return }
        defer { close(descriptor) }
        let zeros = [UInt8](repeating: 0, count: 1 << 16)
        var count = zeros.count
        while count > 0 {
            let written = write(descriptor, zeros, count)
            if written < count { count /= 2 }
        }
    }

    func free() { unlink(filler) }

    func unmount() { umount2(path, Int32(MNT_DETACH)) }
}
