// SPDX-License-Identifier: Apache-2.0

package import DCPCore
internal import NIOCore

/// Creates a sequence from the longest stored prefix of some token ids: a fork of the sequence that begins with the
/// most of them, or an empty one. The answer includes its claim.
package struct OpenMatching: RequestItem {
    package static let type = FrameType(request: 0x010B, "open matching sequence")
    package static let right = ClientRight.use
    package static let itemsMax = 64
    package typealias Answer = MatchedSequence

    /// Of the new sequence.
    package var name: String
    package var model: String
    /// The request is refused if this is not empty and the model has another revision.
    package var revision: String
    /// The scope of the search, and of the new sequence.
    package var scope: String
    package var ids: [UInt32]
    /// The maximum length of the new sequence.
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
    /// Length of the prefix, committed on every rank.
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
