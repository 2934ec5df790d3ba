// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import NIOCore

/// A request of the coordinator: the stored sequence of a model and a scope with the longest common prefix with these
/// ids.
public struct MatchQuestion: Hashable, Sendable {
    public var model: ModelID
    public var scope: String
    public var ids: [UInt32]
    /// Sequences to exclude.
    public var excluding: [SequenceID]

    public init(model: ModelID, scope: String, ids: [UInt32], excluding: [SequenceID] = []) {
        self.model = model
        self.scope = scope
        self.ids = ids
        self.excluding = excluding
    }
}

extension MatchQuestion: WireFields {
    package init(from reader: inout WireReader) throws(ServiceError) {
        model = ModelID(try reader.read("model"))
        scope = try reader.readString("scope")
        ids = try reader.readArray("token ids", byteCountMin: 4) { r throws(ServiceError) in try r.read("token id") }
        excluding = try [SequenceID](from: &reader)
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(model.value)
        writer.write(scope)
        writer.write(ids) { $0.write($1) }
        excluding.encode(to: &writer)
    }
}

/// The length of a sequence on a rank; in a match, the length of the common prefix.
public struct HeldLength: Hashable, Sendable {
    public var sequence: SequenceID
    public var length: Int

    public init(sequence: SequenceID, length: Int) {
        self.sequence = sequence
        self.length = length
    }
}

extension HeldLength: WireFields {
    package init(from reader: inout WireReader) throws(ServiceError) {
        sequence = try SequenceID(from: &reader)
        length = try reader.readLength("length")
    }

    package func encode(to writer: inout WireWriter) {
        sequence.encode(to: &writer)
        writer.write(UInt64(length))
    }
}
