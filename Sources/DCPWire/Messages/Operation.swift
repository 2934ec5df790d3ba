// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// A change that the coordinator sends to every rank after recording it. Operations are idempotent, because they are
/// sent again after a rejoin.
public enum DirectoryOperation: Hashable, Sendable, WireFields {
    case putModel(ModelRecord)
    case removeModel(ModelID)
    case open(SequenceRecord)
    case fork(parent: SequenceID, child: SequenceID, length: Int, name: String)
    case truncate(SequenceID, length: Int)
    case close(SequenceID)
    /// Closes a sequence on the coordinator's own decision, to make room.
    case evict(SequenceID)
    /// A client takes over a sequence: from now on older claims are refused, and so are other clients that may not
    /// administer. Never recorded.
    case claim(SequenceID, Claim, holder: String)
    /// The retention of a sequence, in case the directory is lost; the coordinator uses its own record.
    case retain(SequenceID, Retention)

    package init(from reader: inout WireReader) throws(ServiceError) {
        let kind: UInt8 = try reader.read("operation")
        switch kind {
        case 1: self = .putModel(try ModelRecord(from: &reader))
        case 2: self = .removeModel(ModelID(try reader.read("model")))
        case 3: self = .open(try SequenceRecord(from: &reader))
        case 4:
            self = .fork(
                parent: SequenceID(try reader.read("parent")), child: SequenceID(try reader.read("child")),
                length: try reader.readLength("length"), name: try reader.readString("name"))
        case 5: self = .truncate(SequenceID(try reader.read("sequence")), length: try reader.readLength("length"))
        case 6: self = .close(SequenceID(try reader.read("sequence")))
        case 7: self = .evict(SequenceID(try reader.read("sequence")))
        case 8:
            self = .claim(
                SequenceID(try reader.read("sequence")), Claim(try reader.read("claim")),
                holder: try reader.readString("holder"))
        case 9: self = .retain(SequenceID(try reader.read("sequence")), try Retention(from: &reader))
        default: throw reader.malformed("has the unknown operation \(kind)")
        }
    }

    package func encode(to writer: inout WireWriter) {
        switch self {
        case .putModel(let record):
            writer.write(UInt8(1))
            record.encode(to: &writer)
        case .removeModel(let model):
            writer.write(UInt8(2))
            writer.write(model.value)
        case .open(let record):
            writer.write(UInt8(3))
            record.encode(to: &writer)
        case .fork(let parent, let child, let length, let name):
            writer.write(UInt8(4))
            writer.write(parent.value)
            writer.write(child.value)
            writer.write(UInt64(length))
            writer.write(name)
        case .truncate(let sequence, let length):
            writer.write(UInt8(5))
            writer.write(sequence.value)
            writer.write(UInt64(length))
        case .close(let sequence):
            writer.write(UInt8(6))
            writer.write(sequence.value)
        case .evict(let sequence):
            writer.write(UInt8(7))
            writer.write(sequence.value)
        case .claim(let sequence, let claim, let holder):
            writer.write(UInt8(8))
            writer.write(sequence.value)
            writer.write(claim.value)
            writer.write(holder)
        case .retain(let sequence, let retention):
            writer.write(UInt8(9))
            writer.write(sequence.value)
            retention.encode(to: &writer)
        }
    }
}
