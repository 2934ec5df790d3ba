// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import Synchronization

/// Reading the very bytes that attention reads, and nothing else: each block's payload once, in address order, on as many
/// threads.
///
/// @unchecked Sendable: the blocks are only read, and `owner` keeps them.
final class StreamingRead: @unchecked Sendable {
    private let blocks: [UnsafeRawPointer]
    private let payloadByteCount: Int
    private let owner: (any AnyObject & Sendable)?
    /// The result of reading, so that it is not optimised away.
    private let digest = Atomic<UInt64>(0)
    /// The ways that are measured.
    private var ways = [0]

    /// - Parameter owner: keeps the memory.
    init(_ blocks: [UnsafeRawPointer], payloadByteCount: Int, owner: (any AnyObject & Sendable)?) {
        self.blocks = blocks
        self.payloadByteCount = payloadByteCount
        self.owner = owner
    }

    var byteCount: Int { blocks.count * payloadByteCount }
    /// Finds the ways that read fastest on this machine, here and now, by the best of a few runs. Two of them go into the
    /// measurement, since a ceiling must not be too low: whichever is the faster there counts.
    func chooseWays(_ team: Team, _ interruption: Interruption) throws {
        var times: [(way: Int, best: Double)] = []
        for way in 0..<ReadWays.count {
            var best = Double.infinity
            for _ in 0..<4 {
                try interruption.check()
                best = min(best, Stopwatch.seconds { read(way: way, team) })
            }
            times.append((way, best))
        }
        ways = times.sorted { $0.best < $1.best }.prefix(2).map(\.way)
    }

    /// A body for each chosen way, to be timed.
    func bodies(_ team: Team) -> [() -> Void] {
        ways.map { way in { self.read(way: way, team) } }
    }

    /// The faster way's durations, of those of all bodies.
    func fastest(_ times: ArraySlice<Samples>) -> (seconds: Samples, way: String) {
        precondition(times.count == ways.count)
        let found = zip(ways, times).min { $0.1.median < $1.1.median }
        guard let (way, seconds) = found else { preconditionFailure("no way of reading") }
        return (seconds, ReadWays.name(way))
    }

    /// Reads all blocks once. Blocks the caller.
    private func read(way: Int, _ team: Team) {
        // As large as a piece of decode's, and enough of them for every thread.
        let perPiece = max(1, min(blocks.count / (team.threads * 8), 16))
        team.deal((blocks.count + perPiece - 1) / perPiece) { [self] piece in
            var sum: UInt64 = 0
            for block in piece * perPiece..<min((piece + 1) * perPiece, blocks.count) {
                sum ^= ReadWays.read(way, blocks[block], byteCount: payloadByteCount)
            }
            digest.bitwiseXor(sum, ordering: .relaxed)
        }
    }
}
