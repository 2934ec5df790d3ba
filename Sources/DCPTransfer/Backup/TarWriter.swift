// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import Glibc

/// Writes a tar archive, file by file and in order. Buffers small pieces.
final class TarWriter {
    private let output: PipeEnd
    private let modified: Int
    private var gathered: [UInt8] = []
    /// How far the file that is being written has come.
    private(set) var end = 0
    private var byteCount = 0
    private var checksum = CRC32C()
    private static let gatheredMax = 256 << 10
    private static let zeros = [UInt8](repeating: 0, count: gatheredMax)

    /// - Parameter modified: of all files, in seconds since 1970.
    init(to output: PipeEnd, modified: Int) {
        self.output = output
        self.modified = modified
        gathered.reserveCapacity(Self.gatheredMax)
    }

    func begin(_ name: String, byteCount: Int) throws(ServiceError) {
        let header = TarHeader(
            name: name, byteCount: byteCount, modified: modified, user: geteuid(), group: getegid())
        try put(header.encoded()[...])
        (end, self.byteCount, checksum) = (0, byteCount, CRC32C())
    }

    /// - Parameter offset: at or after the bytes already written; the gap is zeros.
    func write(_ bytes: ArraySlice<UInt8>, at offset: Int) throws(ServiceError) {
        try skip(to: offset)
        try add(bytes)
    }

    /// - Returns: the file's checksum.
    func finish() throws(ServiceError) -> UInt32 {
        try skip(to: byteCount)
        try put(TarHeader.padding(after: byteCount)[...])
        return checksum.value
    }

    /// Two blocks of zeros end an archive.
    func close() throws(ServiceError) {
        try put(Self.zeros[..<(2 * TarHeader.blockByteCount)])
        try flush()
    }

    /// Writes zeros.
    /// - Parameter offset: at or after the bytes already written.
    func skip(to offset: Int) throws(ServiceError) {
        precondition(offset >= end, "written in order")
        while end < offset { try add(Self.zeros[..<min(offset - end, Self.zeros.count)]) }
    }

    private func add(_ bytes: ArraySlice<UInt8>) throws(ServiceError) {
        precondition(end + bytes.count <= byteCount, "a file is as long as its header says")
        end += bytes.count
        bytes.withUnsafeBytes { checksum.update($0) }
        try put(bytes)
    }

    private func put(_ bytes: ArraySlice<UInt8>) throws(ServiceError) {
        if gathered.count + bytes.count > Self.gatheredMax { try flush() }
        if bytes.count >= Self.gatheredMax { try output.write(bytes) } else { gathered += bytes }
    }

    private func flush() throws(ServiceError) {
        try output.write(gathered[...])
        gathered.removeAll(keepingCapacity: true)
    }
}
