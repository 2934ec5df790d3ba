// SPDX-License-Identifier: Apache-2.0

package import DCPCore

/// A rank's store in its status: when it syncs, and whether it accepts new tokens.
public struct StoreRoom: Hashable, Sendable {
    public enum Condition: UInt8, Sendable, CaseIterable {
        case writable = 1
        /// Above the high watermark, and not yet below the low one.
        case full = 2
        /// The disk refused a write.
        case refused = 3
        /// A sync failed: nothing is written until a restart, which verifies the store.
        case failed = 4
    }

    /// `always`, `everysec` or `never`.
    public var durability: String
    public var condition: Condition
    /// Why new tokens are refused; empty when they are taken.
    public var refusal: String
    /// Bytes of the data file on the disk.
    public var fileByteCount: UInt64
    /// The watermarks.
    public var highByteCount: UInt64
    public var lowByteCount: UInt64
    /// Bytes of unreferenced blocks that are not deleted yet.
    public var deletingByteCount: UInt64

    public init(
        durability: String, condition: Condition, refusal: String, fileByteCount: UInt64, highByteCount: UInt64,
        lowByteCount: UInt64, deletingByteCount: UInt64
    ) {
        self.durability = durability
        self.condition = condition
        self.refusal = refusal
        self.fileByteCount = fileByteCount
        self.highByteCount = highByteCount
        self.lowByteCount = lowByteCount
        self.deletingByteCount = deletingByteCount
    }

    package init(from reader: inout WireReader) throws(ServiceError) {
        durability = try reader.readString("durability")
        condition = try reader.readCase("store condition")
        refusal = try reader.readString("refusal")
        fileByteCount = try reader.read("file bytes")
        highByteCount = try reader.read("high watermark")
        lowByteCount = try reader.read("low watermark")
        deletingByteCount = try reader.read("deleting bytes")
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(durability)
        writer.write(condition.rawValue)
        writer.write(refusal)
        writer.write(fileByteCount)
        writer.write(highByteCount)
        writer.write(lowByteCount)
        writer.write(deletingByteCount)
    }
}
