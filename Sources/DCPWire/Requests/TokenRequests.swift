// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// The part of one sequence that a commit makes durable.
public struct SequenceCommit: Hashable, Sendable {
    public var sequence: SequenceID
    /// Global.
    public var length: Int
    /// Ids of its tokens. A sequence has ids for all committed tokens, or for none.
    public var tokens: TokenIDs?
    /// Replaces the annotation; nil keeps it, and an empty one removes it. A sequence that is cut below its length
    /// after this commit loses it.
    public var annotation: [UInt8]?
    /// The sender's claim on the sequence. `Cluster` fills it in.
    public var claim: Claim

    public init(
        sequence: SequenceID, length: Int, tokens: TokenIDs? = nil, annotation: [UInt8]? = nil, claim: Claim = .none
    ) {
        self.sequence = sequence
        self.length = length
        self.tokens = tokens
        self.annotation = annotation
        self.claim = claim
    }
}

extension SequenceCommit: WireFields {
    package init(from reader: inout WireReader) throws(ServiceError) {
        let length = try SequenceLength(from: &reader)
        self.init(sequence: length.sequence, length: length.length, claim: length.claim)
        if try reader.readBool("has ids") { tokens = try TokenIDs(from: &reader) }
        if try reader.readBool("has annotation") { annotation = try reader.readBytes("annotation") }
    }

    package func encode(to writer: inout WireWriter) {
        SequenceLength(sequence: sequence, length: length, claim: claim).encode(to: &writer)
        writer.write(tokens != nil)
        tokens?.encode(to: &writer)
        writer.write(annotation != nil)
        if let annotation { writer.write(bytes: annotation) }
    }
}

extension TokenIDs: WireFields {
    package init(from reader: inout WireReader) throws(ServiceError) {
        self.init(start: try reader.readLength("first token"), ids: try reader.readTokenIDs("ids"))
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(UInt64(start))
        writer.write(ids: ids)
    }
}

/// Makes the first tokens of sequences durable on a rank, for all sequences or none, with their ids and annotations.
package struct Commit: Request, WireFields {
    package static let type = FrameType(request: 0x0201, "commit")
    package static let right = ClientRight.use
    package typealias Reply = Done

    package var parts: [SequenceCommit]

    package init(_ parts: [SequenceCommit]) { self.parts = parts }

    package init(_ lengths: [SequenceLength]) {
        self.init(lengths.map { SequenceCommit(sequence: $0.sequence, length: $0.length, claim: $0.claim) })
    }

    package init(from reader: inout WireReader) throws(ServiceError) { parts = try [SequenceCommit](from: &reader) }
    package func encode(to writer: inout WireWriter) { parts.encode(to: &writer) }
}

/// Reads ids of committed tokens, and the annotation. Every rank has all of them.
package struct ReadTokens: Request, WireFields, Hashable {
    package static let type = FrameType(request: 0x0208, "token ids")
    package static let right = ClientRight.read

    /// Maximum number of ids in an answer.
    package static let countMax = 1 << 20

    package var sequence: SequenceID
    package var start: Int
    package var count: Int
    package var wantsAnnotation: Bool

    package init(_ sequence: SequenceID, start: Int, count: Int, wantsAnnotation: Bool) {
        self.sequence = sequence
        self.start = start
        self.count = count
        self.wantsAnnotation = wantsAnnotation
    }

    package init(from reader: inout WireReader) throws(ServiceError) {
        sequence = try SequenceID(from: &reader)
        start = try reader.readLength("first token")
        count = try reader.readLength("count")
        wantsAnnotation = try reader.readBool("wants annotation")
    }

    package func encode(to writer: inout WireWriter) {
        sequence.encode(to: &writer)
        writer.write(UInt64(start))
        writer.write(UInt64(count))
        writer.write(wantsAnnotation)
    }

    package struct Reply: WireFields, Hashable {
        package var ids: [UInt32]
        /// nil if there is none, or it was not requested.
        package var annotation: [UInt8]?

        package init(ids: [UInt32], annotation: [UInt8]?) {
            self.ids = ids
            self.annotation = annotation
        }

        package init(from reader: inout WireReader) throws(ServiceError) {
            ids = try reader.readTokenIDs("ids")
            if try reader.readBool("has annotation") { annotation = try reader.readBytes("annotation") }
        }

        package func encode(to writer: inout WireWriter) {
            writer.write(ids: ids)
            writer.write(annotation != nil)
            if let annotation { writer.write(bytes: annotation) }
        }
    }
}

/// Searches a rank for the sequence of a model and scope with the longest common prefix with some ids.
package struct MatchTokens: Request, WireFields, Hashable {
    package static let type = FrameType(request: 0x0207, "match")
    package static let right = ClientRight.read

    package var question: MatchQuestion
    /// The request is refused if this is not empty and the model has another revision.
    package var revision: String

    package init(_ question: MatchQuestion, revision: String = "") {
        self.question = question
        self.revision = revision
    }

    package init(from reader: inout WireReader) throws(ServiceError) {
        question = try MatchQuestion(from: &reader)
        revision = try reader.readString("revision")
    }

    package func encode(to writer: inout WireWriter) {
        question.encode(to: &writer)
        writer.write(revision)
    }

    /// nil if no sequence begins with the first id.
    package struct Reply: WireFields, Hashable {
        package var found: HeldLength?

        package init(_ found: HeldLength?) { self.found = found }

        package init(from reader: inout WireReader) throws(ServiceError) {
            if try reader.readBool("found") { found = try HeldLength(from: &reader) }
        }

        package func encode(to writer: inout WireWriter) {
            writer.write(found != nil)
            found?.encode(to: &writer)
        }
    }
}

extension WireWriter {
    /// A 32-bit count, then 4 bytes each.
    fileprivate mutating func write(ids: [UInt32]) { write(ids) { $0.write($1) } }
}

extension WireReader {
    fileprivate mutating func readTokenIDs(_ field: StaticString) throws(ServiceError) -> [UInt32] {
        try readArray(field, byteCountMin: 4) { r throws(ServiceError) in try r.read("id") }
    }
}
