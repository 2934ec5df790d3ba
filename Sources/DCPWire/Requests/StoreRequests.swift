// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// The recorded store of every rank that has ever registered, by rank.
package struct ListStores: Request, WireFields {
    package static let type = FrameType(request: 0x0110, "list stores")
    package static let right = ClientRight.read
    package typealias Reply = [RecordedStore]

    package init() {}
    package init(from reader: inout WireReader) throws(ServiceError) {}
    package func encode(to writer: inout WireWriter) {}
}

/// A rank's store in the coordinator's records. The coordinator refuses another store, or an older copy, in its place.
public struct RecordedStore: Hashable, Sendable {
    public var rank: RankIndex
    public var store: StoreID
    /// The last change known to be on its disk.
    public var mark: UInt64
    /// Whether the rank is a member with this store.
    public var isHere: Bool

    public init(rank: RankIndex, store: StoreID, mark: UInt64, isHere: Bool) {
        self.rank = rank
        self.store = store
        self.mark = mark
        self.isHere = isHere
    }
}

extension RecordedStore: WireFields {
    package init(from reader: inout WireReader) throws(ServiceError) {
        rank = RankIndex(try reader.read("rank"))
        store = try StoreID(from: &reader)
        mark = try reader.read("mark")
        isHere = try reader.readBool("is here")
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(rank.value)
        store.encode(to: &writer)
        writer.write(mark)
        writer.write(isHere)
    }
}

/// Gives up a rank's store, or its latest changes: the coordinator accepts the next store in its place. Valid until the
/// coordinator stops; nothing is cut before the rank registers.
package struct GiveUpStore: Request, WireFields, Hashable {
    package static let type = FrameType(request: 0x0111, "give up store")
    package typealias Reply = Done

    package var rank: RankIndex
    package var loss: StoreLoss

    package init(rank: RankIndex, loss: StoreLoss) {
        self.rank = rank
        self.loss = loss
    }

    package init(from reader: inout WireReader) throws(ServiceError) {
        rank = RankIndex(try reader.read("rank"))
        let kind: UInt8 = try reader.read("loss")
        switch kind {
        case 1: loss = .store(try StoreID(from: &reader))
        case 2: loss = .changes(try reader.read("mark"))
        default: throw reader.malformed("has the unknown loss \(kind)")
        }
    }

    package func encode(to writer: inout WireWriter) {
        writer.write(rank.value)
        switch loss {
        case .store(let store):
            writer.write(UInt8(1))
            store.encode(to: &writer)
        case .changes(let mark):
            writer.write(UInt8(2))
            writer.write(mark)
        }
    }
}
