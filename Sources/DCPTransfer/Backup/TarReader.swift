// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// Reads a tar archive, file by file. Every length is checked before use.
final class TarReader {
    private let input: PipeEnd
    private var buffer = [UInt8](repeating: 0, count: bufferByteCount)
    private var filled = 0..<0
    /// Bytes of the file that are still to come.
    private var rest = 0
    private var padding = 0
    /// How far the archive was read.
    private(set) var offset = 0
    private static let bufferByteCount = 1 << 20

    init(from input: PipeEnd) { self.input = input }

    /// The next file's header; nil at the archive's end. Skips the unread rest of the previous file.
    func next() throws(ServiceError) -> TarHeader? {
        while rest > 0 { _ = try read() }
        try skip(padding)
        padding = 0
        var header = try self.header()
        guard let first = header else { return try endOfArchive() }
        if first.kind == .pax {
            guard first.byteCount <= TarHeader.paxByteCountMax else {
                throw TarHeader.refusal(
                    "a pax record has \(first.byteCount) bytes, but the limit is \(TarHeader.paxByteCountMax)")
            }
            let body = try take(first.byteCount)
            try skip(TarHeader.paddingByteCount(first.byteCount))
            header = try self.header()
            guard header?.kind == .file else { throw TarHeader.refusal("no file follows a pax record") }
            try header!.apply(pax: body)
        }
        rest = header!.byteCount
        padding = TarHeader.paddingByteCount(rest)
        return header
    }

    /// The next bytes of the file; none at its end.
    func read() throws(ServiceError) -> ArraySlice<UInt8> {
        guard rest > 0 else { return [] }
        try fill()
        let part = filled.prefix(rest)
        use(part.count)
        rest -= part.count
        return buffer[part]
    }

    private func header() throws(ServiceError) -> TarHeader? {
        let block = try take(TarHeader.blockByteCount)
        return block.allSatisfy { $0 == 0 } ? nil : try TarHeader(block)
    }

    /// After the first block of zeros there is another. The rest is padding, which is read so that its sender ends
    /// without an error.
    private func endOfArchive() throws(ServiceError) -> TarHeader? {
        guard try take(TarHeader.blockByteCount).allSatisfy({ $0 == 0 }) else {
            throw TarHeader.refusal("one block of zeros stands alone")
        }
        filled = 0..<0
        while try input.read(into: &buffer, count: buffer.count) > 0 {}
        return nil
    }

    private func take(_ count: Int) throws(ServiceError) -> [UInt8] {
        var bytes: [UInt8] = []
        while bytes.count < count {
            try fill()
            let part = filled.prefix(count - bytes.count)
            bytes += buffer[part]
            use(part.count)
        }
        return bytes
    }

    private func skip(_ count: Int) throws(ServiceError) { _ = try take(count) }

    private func use(_ count: Int) {
        filled = filled.dropFirst(count)
        offset += count
    }

    private func fill() throws(ServiceError) {
        guard filled.isEmpty else { return }
        let count = try input.read(into: &buffer, count: buffer.count)
        guard count > 0 else {
            throw ServiceError(
                .invalidRequest,
                "The backup on standard input ends at byte \(offset), before its end: `dcpctl backup -` or the "
                    + "transfer was interrupted. Nothing was restored.")
        }
        filled = 0..<count
    }
}
