// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// Renews a rank's lease, with the data for the coordinator's decisions: whether the rank accepts new tokens, and which
/// sequences are in use.
public struct LeaseRenewal: Hashable, Sendable {
    public var stepsInFlight: UInt32
    /// Why the rank refuses new tokens; nil if it accepts them.
    public var refusal: ServiceError?
    /// Bytes that evictions should free, without those already being deleted.
    public var evictionByteCount: UInt64
    /// Sequences used since the last renewal, in the order of their last use, and those that steps in flight use.
    public var usedSequences: [SequenceID]
    /// The mark that survives a power loss.
    public var durableMark: UInt64

    public init(
        stepsInFlight: UInt32, refusal: ServiceError? = nil, evictionByteCount: UInt64 = 0,
        usedSequences: [SequenceID] = [], durableMark: UInt64 = 0
    ) {
        self.stepsInFlight = stepsInFlight
        self.refusal = refusal
        self.evictionByteCount = evictionByteCount
        self.usedSequences = usedSequences
        self.durableMark = durableMark
    }

    package init(from reader: inout WireReader) throws(ServiceError) {
        stepsInFlight = try reader.read("steps in flight")
        let hasRefusal = try reader.readBool("has refusal")
        let error = try ServiceError(from: &reader)
        refusal = hasRefusal ? error : nil
        evictionByteCount = try reader.read("eviction bytes")
        usedSequences = try reader.readArray("used sequences", byteCountMin: 8) { r throws(ServiceError) in
            SequenceID(try r.read("sequence"))
        }
        durableMark = try reader.read("durable mark")
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(stepsInFlight)
        writer.write(refusal != nil)
        (refusal ?? ServiceError(ServiceError.Code(rawValue: 0), "")).encode(to: &writer)
        writer.write(evictionByteCount)
        writer.write(usedSequences) { $0.write($1.value) }
        writer.write(durableMark)
    }
}
