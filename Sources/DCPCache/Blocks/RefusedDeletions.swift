// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// What the room in a store depends on: another transaction may have freed pages, or a reader that kept some has ended.
struct RoomState: Hashable, Sendable {
    var transactions: Int
    var oldestRead: UInt64?
}

/// Deletions that the store refused, and the room in it then: they are tried again in another.
struct RefusedDeletions: Sendable {
    private var isSweepRefused = false
    /// Sequences of which a rewind dropped blocks.
    private var trims: Set<SequenceID> = []
    /// At the last refusal.
    private var room: RoomState?

    var isEmpty: Bool { !isSweepRefused && trims.isEmpty }

    mutating func noteSweep(_ room: RoomState) { (isSweepRefused, self.room) = (true, room) }

    mutating func noteTrim(of id: SequenceID, _ room: RoomState) {
        trims.insert(id)
        self.room = room
    }

    /// What to try again.
    /// - Parameter now: the room by now; nil to try whatever it is.
    mutating func take(_ now: RoomState?) -> (sweep: Bool, trims: Set<SequenceID>) {
        guard now == nil || now != room else { return (false, []) }
        defer { self = RefusedDeletions() }
        return (isSweepRefused, trims)
    }
}
