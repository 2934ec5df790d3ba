// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import Testing

extension Rig {
    /// Appends tokens named by their ids and commits them with the ids.
    func commit(_ id: UInt64, ids: [UInt32], annotation: [UInt8]? = nil) throws {
        let start = try state(id).committedLength.value
        try appendAll(id, at: start, ids)
        try commit(id, start + ids.count, TokenIDs(start: start, ids: ids), annotation: annotation)
    }

    func commit(_ id: UInt64, _ length: Int, _ tokens: TokenIDs?, annotation: [UInt8]? = nil) throws {
        let part = CommitPart(SequenceID(id), length: Position(length), tokens: tokens, annotation: annotation)
        try finish { cache.commit([part], completion: $0) }
    }

    func open(_ id: UInt64, scope: String) throws {
        try finish { cache.openSequence(id: SequenceID(id), model: Self.model, scope: scope, completion: $0) }
    }

    func match(_ ids: [UInt32], scope: String = "", excluding: Set<UInt64> = []) throws -> [Int]? {
        try cache.match(model: Self.model, scope: scope, ids: ids, excluding: Set(excluding.map { SequenceID($0) }))
            .map { [Int($0.sequence.value), $0.length.value] }
    }

    func ids(_ id: UInt64) throws -> [UInt32] {
        try cache.tokenIDs(of: SequenceID(id), Range<Position>(0..<state(id).tokenIDs))
    }

    func annotation(_ id: UInt64) throws -> [UInt8]? { try cache.annotation(of: SequenceID(id)) }
}
