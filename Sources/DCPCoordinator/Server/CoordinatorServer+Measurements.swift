// SPDX-License-Identifier: Apache-2.0

package import DCPCore
package import DCPObservability
package import DCPTransport
internal import DCPWire
internal import NIOCore

/// A coordinator's counters since its start. Confined to its event loop.
package struct CoordinatorCounters: Sendable {
    package var ranksLost: [RankIndex: UInt64] = [:]
    /// Copies beside a running original, each counted once.
    package var secondHolders: [RankIndex: UInt64] = [:]
    package var olderStores: [RankIndex: UInt64] = [:]
    /// Committed tokens that were given up at joins, and of how many sequences.
    package var cuts: (sequences: UInt64, tokens: UInt64) = (0, 0)
    /// To make room, and for their age.
    package var evictions: (room: UInt64, age: UInt64) = (0, 0)
    package var operationsFailed = CauseCounts([.storeFull])
    /// Connections closed because of the peer's identity or frames.
    package var framesRefused = CauseCounts([.incompatible, .protocolViolation])

    mutating func count(_ event: CoordinatorEvent) {
        switch event {
        case .rankLost(let rank, _): ranksLost[rank, default: 0] += 1
        case .secondHolder(let rank, _): secondHolders[rank, default: 0] += 1
        case .olderStore(let rank, _): olderStores[rank, default: 0] += 1
        case .evicted(_, _, .room): evictions.room += 1
        case .evicted(_, _, .age): evictions.age += 1
        case .reconciled(let some):
            cuts.sequences += UInt64(some.count)
            cuts.tokens += some.reduce(0) { $0 + UInt64($1.from - $1.to) }
        // Their tokens are counted at the join.
        case .olderStoreTaken(_, _, _, let some): cuts.sequences += UInt64(some.count)
        case .operationFailed(_, let error): operationsFailed.count(error.code)
        case .refused(_, let cause, let error): if cause.concernsFrame { framesRefused.count(error.code) }
        case .listening, .rankRegistered, .rankRefused, .gaveUp, .joining, .ready, .adopted, .unknownSequences,
            .droppedUnknown, .diskFull, .diskHasRoom, .fatal:
            break
        }
    }
}

/// The state of the cluster from its coordinator's view, at one moment of its event loop.
package struct CoordinatorMeasurements: Sendable {
    package var epoch: Epoch
    /// Why the cluster is not ready; empty when it is.
    package var reason: String
    /// Every rank of the cluster, whether it holds its lease, and the durable mark of its store as recorded.
    package var ranks: [(rank: RankIndex, isPresent: Bool, mark: UInt64)]
    package var models: Int
    package var sequences: Int
    package var pinned: Int
    package var connections: Int
    package var counters: CoordinatorCounters
    package var refused: RefusedConnections
    /// Seconds since 1970; nil without TLS.
    package var certificateEnd: Int?
}

extension CoordinatorServer {
    /// Whether no change waits for a sync: its whole state would survive a crash.
    package var isSettled: Bool { !isPersisting }

    package var place: (epoch: Epoch, directoryMark: DirectoryMark) {
        (machine.state.epoch, machine.state.directoryMark)
    }

    package func mark(of rank: RankIndex) -> UInt64 { machine.state.marks[rank] ?? 0 }

    package var measurements: CoordinatorMeasurements {
        eventLoop.preconditionInEventLoop()
        return CoordinatorMeasurements(
            epoch: machine.state.epoch, reason: machine.reason,
            ranks: machine.topology.members.map { ($0.rank, $0.endpoint != nil, mark(of: $0.rank)) },
            models: machine.state.models.count, sequences: machine.state.sequences.count,
            pinned: machine.state.sequences.values.count { $0.retention.isPinned }, connections: links.count,
            counters: counters,
            refused: refusedConnections, certificateEnd: tls?.notAfter)
    }
}
