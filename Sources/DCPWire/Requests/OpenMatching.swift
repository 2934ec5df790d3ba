package import DCPCore
internal import NIOCore

/// Makes a sequence of what is stored of some token ids: a fork of the one that begins with most of them, or an empty one. Its
/// claim comes with it.
package struct OpenMatching: RequestItem {
    package static let type = FrameType(request: 0x010B, "open matching sequence")
    package static let right = ClientRight.use
    package static let itemsMax = 64
    package typealias Answer = MatchedSequence

    /// Of the new sequence.
    package var name: String
    package var model: String
    /// Refused when it is not empty and the model has another.
    package var revision: String
    /// Of the sequences that are looked at, and of the new one.
    package var scope: String
    package var ids: [UInt32]
    /// How many tokens the new sequence has at most.
    package var lengthMax: Int

    package init(name: String, model: String, revision: String, scope: String, ids: [UInt32], lengthMax: Int) {
        self.name = name
        self.model = model
        self.revision = revision
        self.scope = scope
        self.ids = ids
        self.lengthMax = lengthMax
    }

    package init(from reader: inout WireReader) throws(ServiceError) {
        name = try reader.readString("name")
        model = try reader.readString("model")
        revision = try reader.readString("revision")
        scope = try reader.readString("scope")
        ids = try reader.readArray("token ids", byteCountMin: 4) { r throws(ServiceError) in try r.read("token id") }
        lengthMax = try reader.readLength("longest")
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(name)
        writer.write(model)
        writer.write(revision)
        writer.write(scope)
        writer.write(ids) { $0.write($1) }
        writer.write(UInt64(lengthMax))
    }
}

package struct MatchedSequence: WireFields, Hashable {
    package var sequence: SequenceRecord
    package var model: ModelRecord
    /// Tokens of the ids that it begins with, committed on every rank.
    package var length: Int
    package var claim: Claim

    package init(sequence: SequenceRecord, model: ModelRecord, length: Int, claim: Claim = .none) {
        self.sequence = sequence
        self.model = model
        self.length = length
        self.claim = claim
    }

    package init(from reader: inout WireReader) throws(ServiceError) {
        sequence = try SequenceRecord(from: &reader)
        model = try ModelRecord(from: &reader)
        length = try reader.readLength("length")
        claim = try Claim(from: &reader)
    }

    package func encode(to writer: inout WireWriter) {
        sequence.encode(to: &writer)
        model.encode(to: &writer)
        writer.write(UInt64(length))
        claim.encode(to: &writer)
    }
}
