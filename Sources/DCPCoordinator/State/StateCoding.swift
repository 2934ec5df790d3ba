// SPDX-License-Identifier: Apache-2.0

package import DCPCore
internal import DCPWire
internal import NIOCore

/// The coordinator's state as keys and values of one table, `directory`.
///
/// | key | value |
/// |---|---|
/// | `f` | superblock: `DCPC`, format: u32 |
/// | `s` | cluster shape: as in a topology frame |
/// | `c` | cluster id: u64 |
/// | `e` | epoch: u64 |
/// | `d` | directory mark: u64 |
/// | `a` | nothing; there while the directory is being rebuilt from the ranks' stores |
/// | `n` | next model number: u32, next sequence number: u64 |
/// | `r`, rank: u16 | store id: two u64 |
/// | `k`, rank: u16 | the highest durable mark of its store: u64 |
/// | `m`, model: u32 | model record: as in a directory frame |
/// | `q`, sequence: u64 | sequence record, owner: string, closing: u8, has fork: u8, parent: u64, length: u64, has truncation: u8, length: u64, retention: as in a list frame, cuts: u8, each epoch: u64, length: u64 |
///
/// Numbers in keys are big-endian, so that they sort; in values little-endian. Every value ends with the CRC-32C of the
/// key and of the bytes before it.
package enum StateCoding {
    package typealias Record = (key: [UInt8], value: [UInt8]?)

    /// Raised when a byte of the state changes its meaning.
    package static let format: UInt32 = 2

    static let superblockKey: [UInt8] = [UInt8(ascii: "f")]
    static let shapeKey: [UInt8] = [UInt8(ascii: "s")]
    private static let magic = Array("DCPC".utf8)

    package static func superblock(format: UInt32 = format) -> Record {
        record(superblockKey) {
            for byte in magic { $0.write(byte) }
            $0.write(format)
        }
    }

    /// The format of a state.
    /// - Throws: `.storeDamaged`.
    package static func decodeFormat(_ value: [UInt8]) throws(ServiceError) -> UInt32 {
        try decode(superblockKey, value) { (r) throws(ServiceError) in
            for expected in magic {
                let byte: UInt8 = try r.read("magic")
                guard byte == expected else { throw r.malformed("does not begin with DCPC") }
            }
            return try r.read("format")
        }
    }

    package static func encode(_ change: StateChange) -> Record {
        switch change {
        case .cluster(let cluster): return record(key("c")) { $0.write(cluster.value) }
        case .epoch(let epoch): return record(key("e")) { $0.write(epoch.value) }
        case .directoryMark(let mark): return record(key("d")) { mark.encode(to: &$0) }
        case .adopting(let isAdopting): return isAdopting ? record(key("a")) { _ in } : (key("a"), nil)
        case .nextIDs(let model, let sequence):
            return record(key("n")) {
                $0.write(model)
                $0.write(sequence)
            }
        case .store(let rank, let store):
            return record(key("r", rank.value)) { store.encode(to: &$0) }
        case .mark(let rank, let mark): return record(key("k", rank.value)) { $0.write(mark) }
        case .model(let model): return record(key("m", model.id.value)) { model.encode(to: &$0) }
        case .modelRemoved(let id): return (key("m", id.value), nil)
        case .sequence(let entry): return record(key("q", entry.record.id.value)) { encode(entry, to: &$0) }
        case .sequenceRemoved(let id): return (key("q", id.value), nil)
        }
    }

    package static func encode(_ shape: ClusterShape) -> Record { record(shapeKey) { shape.encode(to: &$0) } }

    /// - Throws: `.storeDamaged`, naming the key.
    package static func decodeShape(_ value: [UInt8]) throws(ServiceError) -> ClusterShape {
        try decode(shapeKey, value) { (r) throws(ServiceError) in try ClusterShape(from: &r) }
    }

    /// - Throws: `.storeDamaged`, naming the key.
    package static func decode(key: [UInt8], value: [UInt8]) throws(ServiceError) -> StateChange {
        try decode(key, value) { (r) throws(ServiceError) -> StateChange in
            switch key.first {
            case UInt8(ascii: "c"): return .cluster(ClusterID(try r.read("cluster")))
            case UInt8(ascii: "a"): return .adopting(true)
            case UInt8(ascii: "e"): return .epoch(Epoch(try r.read("epoch")))
            case UInt8(ascii: "d"): return .directoryMark(try DirectoryMark(from: &r))
            case UInt8(ascii: "n"):
                return .nextIDs(model: try r.read("next model"), sequence: try r.read("next sequence"))
            case UInt8(ascii: "r") where key.count == 3:
                let rank = RankIndex(UInt16(key[1]) << 8 | UInt16(key[2]))
                return .store(rank, try StoreID(from: &r))
            case UInt8(ascii: "k") where key.count == 3:
                return .mark(RankIndex(UInt16(key[1]) << 8 | UInt16(key[2])), try r.read("mark"))
            case UInt8(ascii: "m"): return .model(try ModelRecord(from: &r))
            case UInt8(ascii: "q"): return .sequence(try entry(from: &r))
            default: throw r.malformed("has the unknown key \(key)")
            }
        }
    }

    private static func encode(_ entry: SequenceEntry, to writer: inout WireWriter) {
        entry.record.encode(to: &writer)
        writer.write(entry.owner)
        writer.write(entry.isClosing)
        writer.write(entry.fork != nil)
        writer.write(entry.fork?.parent.value ?? 0)
        writer.write(UInt64(entry.fork?.length ?? 0))
        writer.write(entry.truncateLength != nil)
        writer.write(UInt64(entry.truncateLength ?? 0))
        entry.retention.encode(to: &writer)
        writer.write(UInt8(entry.history.cuts.count))
        for cut in entry.history.cuts {
            writer.write(cut.epoch.value)
            writer.write(UInt64(cut.length))
        }
    }

    private static func entry(from reader: inout WireReader) throws(ServiceError) -> SequenceEntry {
        var entry = SequenceEntry(record: try SequenceRecord(from: &reader))
        entry.owner = try reader.readString("owner")
        entry.isClosing = try reader.readBool("closing")
        let hasFork = try reader.readBool("has fork")
        let fork = SequenceEntry.Fork(
            parent: SequenceID(try reader.read("parent")), length: try reader.readLength("fork length"))
        entry.fork = hasFork ? fork : nil
        let hasTruncation = try reader.readBool("has truncation")
        let length = try reader.readLength("truncation length")
        entry.truncateLength = hasTruncation ? length : nil
        entry.retention = try Retention(from: &reader)
        let count: UInt8 = try reader.read("cuts")
        guard count <= CutHistory.cutsMax else { throw reader.malformed("has \(count) cuts") }
        var cuts: [CutHistory.Cut] = []
        for _ in 0..<count {
            let epoch = Epoch(try reader.read("epoch of a cut"))
            cuts.append(CutHistory.Cut(epoch: epoch, length: try reader.readLength("length of a cut")))
        }
        entry.history = CutHistory(cuts)
        return entry
    }

    private static func key<Number: FixedWidthInteger>(_ letter: Unicode.Scalar, _ number: Number) -> [UInt8] {
        [UInt8(ascii: letter)] + withUnsafeBytes(of: number.bigEndian) { Array($0) }
    }

    private static func key(_ letter: Unicode.Scalar) -> [UInt8] { [UInt8(ascii: letter)] }

    private static func record(_ key: [UInt8], _ body: (inout WireWriter) -> Void) -> Record {
        var writer = WireWriter()
        body(&writer)
        var bytes = Array(writer.buffer.readableBytesView)
        let checksum = bytes.withUnsafeBytes { Checksum.of(key: key, $0) }
        withUnsafeBytes(of: checksum.littleEndian) { bytes.append(contentsOf: $0) }
        return (key, bytes)
    }

    private static func decode<Value>(
        _ key: [UInt8], _ value: [UInt8], _ body: (inout WireReader) throws(ServiceError) -> Value
    ) throws(ServiceError) -> Value {
        func damaged(_ what: String) -> ServiceError {
            ServiceError(
                .storeDamaged,
                "The coordinator's record \(String(decoding: key.prefix(1), as: UTF8.self))\(key.dropFirst()) \(what); "
                    + "restore its state directory from a backup, or move it away and start the coordinator with "
                    + "--adopt-ranks.")
        }
        guard value.count >= 4 else { throw damaged("has only \(value.count) bytes") }
        let bytes = value.dropLast(4)
        let stored = value.suffix(4).reversed().reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
        guard bytes.withUnsafeBytes({ Checksum.of(key: key, $0) }) == stored else {
            throw damaged("fails its checksum")
        }
        var reader = WireReader(ByteBuffer(bytes: bytes), of: .operation)
        do throws(ServiceError) {
            let result = try body(&reader)
            try reader.finish()
            return result
        } catch {
            throw damaged("cannot be read (\(error.message))")
        }
    }
}
