// SPDX-License-Identifier: Apache-2.0

package import DCPCore

/// Opens a sequence; creates it if it does not exist and `create` is set.
package struct OpenSequence: RequestItem {
    package static let type = FrameType(request: 0x0104, "open sequence")
    /// Creating one requires a higher right.
    package static let right = ClientRight.read
    package typealias Answer = OpenedSequence

    package var name: String
    /// If empty, any model matches, and nothing is created.
    package var model: String
    /// The request is refused if this is not empty and the model has another revision.
    package var revision: String
    /// The scope of a new sequence; the request is refused if an existing one has another.
    package var scope: String
    package var create: Bool

    package init(name: String, model: String, revision: String = "", scope: String = "", create: Bool) {
        self.name = name
        self.model = model
        self.revision = revision
        self.scope = scope
        self.create = create
    }

    package init(from reader: inout WireReader) throws(ServiceError) {
        name = try reader.readString("name")
        model = try reader.readString("model")
        revision = try reader.readString("revision")
        scope = try reader.readString("scope")
        create = try reader.readBool("create")
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(name)
        writer.write(model)
        writer.write(revision)
        writer.write(scope)
        writer.write(create)
    }
}

/// Opens a sequence of a canary; makes it when it is new, and the canaries' model too.
package struct OpenCanary: RequestItem {
    package static let type = FrameType(request: 0x010D, "open canary")
    package static let right = ClientRight.use
    package typealias Answer = OpenedSequence
    package static let itemsMax = 1

    /// Begins with a dot.
    package var name: String

    package init(name: String) { self.name = name }

    package init(from reader: inout WireReader) throws(ServiceError) { name = try reader.readString("name") }
    package func encode(to writer: inout WireWriter) { writer.write(name) }
}

package struct OpenedSequence: WireFields, Hashable {
    package var sequence: SequenceRecord
    package var model: ModelRecord

    package init(sequence: SequenceRecord, model: ModelRecord) {
        self.sequence = sequence
        self.model = model
    }

    package init(from reader: inout WireReader) throws(ServiceError) {
        sequence = try SequenceRecord(from: &reader)
        model = try ModelRecord(from: &reader)
    }

    package func encode(to writer: inout WireWriter) {
        sequence.encode(to: &writer)
        model.encode(to: &writer)
    }
}

/// Takes a sequence over: answered when every rank refuses older claims, and no operation with one is in progress.
package struct ClaimSequence: RequestItem {
    package static let type = FrameType(request: 0x0106, "claim sequence")
    package static let right = ClientRight.use
    package typealias Answer = Claim

    package var sequence: SequenceID
    /// With a held claim the client only keeps the sequence: refused if another client has claimed it since.
    package var held: Claim

    package init(_ sequence: SequenceID, held: Claim) {
        self.sequence = sequence
        self.held = held
    }

    package init(from reader: inout WireReader) throws(ServiceError) {
        sequence = try SequenceID(from: &reader)
        held = try Claim(from: &reader)
    }

    package func encode(to writer: inout WireWriter) {
        sequence.encode(to: &writer)
        held.encode(to: &writer)
    }
}

/// Creates a sequence from the first tokens of another. Like the next two, it is refused unless the claim is the
/// sequence's latest.
package struct ForkSequence: RequestItem {
    package static let type = FrameType(request: 0x0107, "fork sequence")
    package static let right = ClientRight.use
    package typealias Answer = SequenceRecord

    package var name: String
    package var newName: String
    package var length: Int
    package var claim: Claim

    package init(name: String, newName: String, length: Int, claim: Claim) {
        self.name = name
        self.newName = newName
        self.length = length
        self.claim = claim
    }

    package init(from reader: inout WireReader) throws(ServiceError) {
        name = try reader.readString("name")
        newName = try reader.readString("new name")
        length = try reader.readLength("length")
        claim = try Claim(from: &reader)
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(name)
        writer.write(newName)
        writer.write(UInt64(length))
        claim.encode(to: &writer)
    }
}

/// Cuts a sequence to its first tokens, committed ones among them.
package struct TruncateSequence: RequestItem {
    package static let type = FrameType(request: 0x0108, "truncate sequence")
    package static let right = ClientRight.use
    package typealias Answer = Done

    package var name: String
    package var length: Int
    package var claim: Claim

    package init(name: String, length: Int, claim: Claim) {
        self.name = name
        self.length = length
        self.claim = claim
    }

    package init(from reader: inout WireReader) throws(ServiceError) {
        name = try reader.readString("name")
        length = try reader.readLength("length")
        claim = try Claim(from: &reader)
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(name)
        writer.write(UInt64(length))
        claim.encode(to: &writer)
    }
}

package struct CloseSequence: RequestItem {
    package static let type = FrameType(request: 0x0109, "close sequence")
    package static let right = ClientRight.use
    package typealias Answer = Done

    package var name: String
    package var claim: Claim
    /// Keeps it for later matches until its room is needed, and gives the claim up.
    package var keep: Bool

    package init(name: String, claim: Claim, keep: Bool = false) {
        self.name = name
        self.claim = claim
        self.keep = keep
    }

    package init(from reader: inout WireReader) throws(ServiceError) {
        name = try reader.readString("name")
        claim = try Claim(from: &reader)
        keep = try reader.readBool("keep")
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(name)
        claim.encode(to: &writer)
        writer.write(keep)
    }
}
