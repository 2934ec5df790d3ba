// SPDX-License-Identifier: Apache-2.0

internal import CLMDB
internal import Glibc

/// The address at which a store's file is mapped.
///
/// LMDB 0.9 does not return it (`me_mapaddr` is nil unless `MDB_FIXEDMAP` is set), but the kernel does.
struct EnvironmentMap: @unchecked Sendable {
    let address: UnsafeMutableRawPointer
    let byteCount: Int

    /// - Returns: nil if the file is not mapped, or /proc is not available.
    init?(of path: String) {
        var status = stat()
        guard stat(path, &status) == 0, let list = Self.list() else { return nil }
        for line in list.split(separator: "\n") {
            // begin-end permissions offset device inode path
            let fields = line.split(separator: " ", maxSplits: 5, omittingEmptySubsequences: true)
            guard fields.count >= 5, fields[4] == "\(status.st_ino)", fields[2].allSatisfy({ $0 == "0" }),
                fields[1].hasSuffix("s")
            else { continue }
            let ends = fields[0].split(separator: "-").compactMap { UInt(String($0), radix: 16) }
            guard ends.count == 2, Self.device(fields[3]) == status.st_dev,
                let address = UnsafeMutableRawPointer(bitPattern: ends[0])
            else { continue }
            self.address = address
            byteCount = Int(ends[1] - ends[0])
            return
        }
        return nil
    }

    /// `major:minor`, hexadecimal, as in `stat`.
    private static func device(_ field: Substring) -> dev_t? {
        let parts = field.split(separator: ":").compactMap { UInt64(String($0), radix: 16) }
        guard parts.count == 2 else { return nil }
        return dev_t(
            (parts[0] & 0xFFFF_F000) << 32 | (parts[0] & 0xFFF) << 8 | (parts[1] & 0xFFFF_FF00) << 12 | parts[1] & 0xFF)
    }

    private static func list() -> String? {
        let descriptor = open("/proc/self/maps", O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { Glibc.close(descriptor) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = read(descriptor, &chunk, chunk.count)
            guard count > 0 else { break }
            bytes += chunk.prefix(count)
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
