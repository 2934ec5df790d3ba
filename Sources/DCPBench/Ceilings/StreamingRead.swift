internal import CBenchmarkKernels
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
    /// What was read, so that it has to be.
    private let digest = Atomic<UInt64>(0)
    /// The way that is measured.
    private(set) var way = 0

    /// - Parameter owner: keeps the memory.
    init(_ blocks: [UnsafeRawPointer], payloadByteCount: Int, owner: (any AnyObject & Sendable)?) {
        self.blocks = blocks
        self.payloadByteCount = payloadByteCount
        self.owner = owner
    }

    var byteCount: Int { blocks.count * payloadByteCount }
    var wayName: String { String(cString: dcp_read_way_name(Int32(way))) }

    /// Takes the way that reads fastest on this machine, here and now. The best of a few runs each: a ceiling must not be
    /// too low.
    func chooseWay(_ team: Team, _ interruption: Interruption) throws {
        var best = Double.infinity
        var bestWay = 0
        for way in 0..<Int(dcp_read_ways()) {
            self.way = way
            for _ in 0..<4 {
                try interruption.check()
                let seconds = Stopwatch.seconds { read(team) }
                if seconds < best { (best, bestWay) = (seconds, way) }
            }
        }
        way = bestWay
    }

    /// Reads all blocks once. Blocks the caller.
    func read(_ team: Team) {
        let way = Int32(way)
        // As large as a piece of decode's, and enough of them for every thread.
        let perPiece = max(1, min(blocks.count / (team.threads * 8), 16))
        team.deal((blocks.count + perPiece - 1) / perPiece) { [self] piece in
            var sum: UInt64 = 0
            for block in piece * perPiece..<min((piece + 1) * perPiece, blocks.count) {
                sum ^= dcp_read_stream(way, blocks[block], payloadByteCount)
            }
            digest.bitwiseXor(sum, ordering: .relaxed)
        }
    }
}
