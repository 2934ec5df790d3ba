// SPDX-License-Identifier: Apache-2.0

package import DCPCore
internal import NIOCore

extension StepRequest: Request {
    package static let type = FrameType(request: 0x0200, "step")
    package static let right = ClientRight.use
    package typealias Reply = StepResult

    package var payloadByteCount: Int { tensors.readableBytes }
}

extension StepResult: FrameBody {
    package var payloadByteCount: Int { outputs.readableBytes + (lse?.readableBytes ?? 0) }
}

/// A rank's status of a sequence.
package struct GetSequenceStatus: RequestItem {
    package static let type = FrameType(request: 0x0202, "sequence status")
    package static let right = ClientRight.read
    package typealias Answer = SequenceStatus

    package var sequence: SequenceID

    package init(_ sequence: SequenceID) { self.sequence = sequence }

    package init(from reader: inout WireReader) throws(ServiceError) { sequence = try SequenceID(from: &reader) }
    package func encode(to writer: inout WireWriter) { sequence.encode(to: &writer) }
}

/// Cuts uncommitted tokens to one length in all layers.
package struct CutUncommitted: RequestItem {
    package static let type = FrameType(request: 0x0203, "cut uncommitted")
    package static let right = ClientRight.use
    package typealias Answer = CutLength

    package var length: SequenceLength

    package init(_ length: SequenceLength) { self.length = length }

    package init(from reader: inout WireReader) throws(ServiceError) { length = try SequenceLength(from: &reader) }
    package func encode(to writer: inout WireWriter) { length.encode(to: &writer) }
}

/// The length of a sequence on a rank after a cut: greater than requested if more is committed, because only the
/// coordinator cuts committed tokens.
package struct CutLength: WireFields, Hashable {
    package var length: Int

    package init(_ length: Int) { self.length = length }

    package init(from reader: inout WireReader) throws(ServiceError) { length = try reader.readLength("length") }
    package func encode(to writer: inout WireWriter) { writer.write(UInt64(length)) }
}

extension RowsRequest: Request, WireFields {
    package static let type = FrameType(request: 0x0204, "rows")
    package static let right = ClientRight.read
    package typealias Reply = RowsReply
}

extension RowsReply: FrameBody {
    package var payloadByteCount: Int { rows.readableBytes }
}

/// A rank's counters.
package struct GetRankStatus: Request, WireFields {
    package static let type = FrameType(request: 0x0205, "rank status")
    package static let right = ClientRight.read
    package typealias Reply = RankStatus

    package init() {}
    package init(from reader: inout WireReader) throws(ServiceError) {}
    package func encode(to writer: inout WireWriter) {}
}

extension VerificationRequest: Request, WireFields {
    package static let type = FrameType(request: 0x0206, "verification")
    package typealias Reply = VerificationStatus
}
