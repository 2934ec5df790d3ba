// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPTestKit
import Foundation
import Glibc
import Testing

/// A file that is not regular would be waited for: the limit ends the test that waits.
@Suite("files that are read whole", .timeLimit(.minutes(1)))
struct WholeFileTests {
    private let directory = TemporaryDirectory()

    private func refusal(_ path: String, byteCountMax: Int = 100) -> String? {
        do throws(WholeFile.Refusal) {
            _ = try WholeFile(path, byteCountMax: byteCountMax)
            return nil
        } catch {
            return error.message
        }
    }

    @Test("all bytes up to the limit, with the file's permissions", arguments: [0, 1, 4095, 4096, 5000, 12288])
    func contents(byteCount: Int) throws {
        let (path, bytes) = (directory.path("f"), (0..<byteCount).map { UInt8(truncatingIfNeeded: $0 &* 7) })
        try Data(bytes).write(to: URL(filePath: path))
        #expect(chmod(path, 0o640) == 0)
        for limit in [byteCount, byteCount + 1, 1 << 20] {
            let file = try WholeFile(path, byteCountMax: limit)
            #expect(file.bytes == bytes && file.mode == 0o640)
        }
        guard byteCount > 0 else { return }
        #expect(refusal(path, byteCountMax: byteCount - 1) == "\(path) has more than \(byteCount - 1) bytes")
    }

    @Test("a file without a size is read to its end")
    func sizeless() throws {
        let text = String(decoding: try WholeFile("/proc/self/maps", byteCountMax: 16 << 20).bytes, as: UTF8.self)
        #expect(text.utf8.count > 4096 && text.hasSuffix("\n"))
        #expect(refusal("/proc/self/maps")?.hasSuffix("has more than 100 bytes") == true)
    }

    @Test("a pipe, a directory and a device are distinguished from a file, and a link leads to its target")
    func others() throws {
        let pipe = directory.path("pipe")
        #expect(mkfifo(pipe, 0o600) == 0)
        #expect(refusal(pipe) == "\(pipe) is a pipe, not a regular file")
        #expect(refusal(directory.path) == "\(directory.path) is a directory, not a regular file")
        #expect(refusal("/dev/zero") == "/dev/zero is a device, not a regular file")
        let link = directory.path("link")
        #expect(symlink(pipe, link) == 0)
        #expect(refusal(link) == "\(link) is a pipe, not a regular file")
        #expect(WholeFile.otherKind(mode: S_IFSOCK | 0o600) == "a socket, not a regular file")
        #expect(WholeFile.otherKind(mode: S_IFREG | 0o600) == nil)
    }

    @Test("a missing file is refused in the system's words")
    func absent() {
        let path = directory.path("absent")
        #expect(refusal(path) == "\(path) cannot be read (No such file or directory)")
        #expect(refusal("a\0b")?.contains("NUL") == true)
    }
}
