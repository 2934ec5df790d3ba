// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// A page of the sequences in a rank's store, sent after its registration in a new epoch: the lengths are final for
/// that epoch.
public struct HeldSequences: Hashable, Sendable, WireFields {
    /// Of a page, 35 bytes each.
    public static let countMax = 8192

    public struct Element: Hashable, Sendable {
        public var sequence: SequenceID
        public var model: ModelID
        public var committedLength: Int
        /// The length without known damage: the longest fork of it.
        public var intactLength: Int
        /// As last received by the rank.
        public var retention: Retention

        public init(
            sequence: SequenceID, model: ModelID, committedLength: Int, intactLength: Int? = nil,
            retention: Retention = Retention()
        ) {
            self.sequence = sequence
            self.model = model
            self.committedLength = committedLength
            self.intactLength = intactLength ?? committedLength
            self.retention = retention
        }
    }

    /// In the order of their last use, the least recent first, as far as the rank knows it.
    public var sequences: [Element]
    /// Whether this is the last page.
    public var isLast: Bool

    public init(_ sequences: [Element], isLast: Bool) {
        self.sequences = sequences
        self.isLast = isLast
    }

    package init(from reader: inout WireReader) throws(ServiceError) {
        sequences = try reader.readArray("sequences", byteCountMin: 35, countMax: Self.countMax) {
            r throws(ServiceError) in
            Element(
                sequence: SequenceID(try r.read("sequence")), model: ModelID(try r.read("model")),
                committedLength: try r.readLength("committed length"), intactLength: try r.readLength("intact length"),
                retention: try Retention(from: &r))
        }
        isLast = try reader.readBool("is last")
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(sequences) {
            $0.write($1.sequence.value)
            $0.write($1.model.value)
            $0.write(UInt64($1.committedLength))
            $0.write(UInt64($1.intactLength))
            $1.retention.encode(to: &$0)
        }
        writer.write(isLast)
    }
}
