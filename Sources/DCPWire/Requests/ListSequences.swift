// SPDX-License-Identifier: Apache-2.0

package import DCPCore

/// Sequences that are not being closed, by number, a page at a time.
package struct ListSequences: Request, WireFields {
    package static let type = FrameType(request: 0x0105, "list sequences")
    package static let right = ClientRight.read
    package typealias Reply = SequenceList

    /// Sequences in a page, and examined for it: with the longest names and scopes, two pages fit into a frame.
    package static let countMax = 8192

    /// A prefix of their names; empty for all.
    package var prefix: String
    /// Only sequences with a higher number.
    package var after: SequenceID
    /// 1 to `countMax`.
    package var count: Int

    package init(prefix: String = "", after: SequenceID = SequenceID(0), count: Int = Self.countMax) {
        self.prefix = prefix
        self.after = after
        self.count = count
    }

    package init(from reader: inout WireReader) throws(ServiceError) {
        prefix = try reader.readString("prefix")
        after = SequenceID(try reader.read("after"))
        let wanted: UInt32 = try reader.read("count")
        guard (1...Self.countMax).contains(Int(wanted)) else {
            throw reader.malformed("has \(wanted) in `count`, which is 1 to \(Self.countMax)")
        }
        count = Int(wanted)
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(prefix)
        writer.write(after.value)
        writer.write(UInt32(count))
    }
}

package struct SequenceList: WireFields {
    package struct Element: WireFields {
        package var record: SequenceRecord
        package var retention: Retention

        package init(record: SequenceRecord, retention: Retention) {
            self.record = record
            self.retention = retention
        }

        package init(from reader: inout WireReader) throws(ServiceError) {
            record = try SequenceRecord(from: &reader)
            retention = try Retention(from: &reader)
        }

        package func encode(to writer: inout WireWriter) {
            record.encode(to: &writer)
            retention.encode(to: &writer)
        }
    }

    /// Those of the sequences.
    package var models: [ModelRecord]
    package var sequences: [Element]
    /// The number after which the next page begins; that page may be empty without being the last. nil for the last
    /// page.
    package var next: SequenceID?
    /// Number of sequences in the directory, with any name.
    package var directoryCount: Int

    package init(
        models: [ModelRecord] = [], sequences: [Element] = [], next: SequenceID? = nil, directoryCount: Int = 0
    ) {
        self.models = models
        self.sequences = sequences
        self.next = next
        self.directoryCount = directoryCount
    }

    package init(from reader: inout WireReader) throws(ServiceError) {
        models = try [ModelRecord](from: &reader)
        sequences = try [Element](from: &reader)
        let behind: UInt64 = try reader.read("next")
        next = behind == 0 ? nil : SequenceID(behind)
        directoryCount = Int(try reader.read("directory count") as UInt32)
    }

    package func encode(to writer: inout WireWriter) {
        models.encode(to: &writer)
        sequences.encode(to: &writer)
        writer.write(next?.value ?? 0)
        writer.write(UInt32(directoryCount))
    }
}
