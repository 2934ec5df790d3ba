// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPWire

/// A read and its pieces.
struct RowReading {
    var sequence: SequenceID
    var layer: Int
    var attention: LayerAttention
    var dataType: DataType
    var positions: Range<Int>
    var topology: Topology

    /// Requests in flight per rank: enough to keep both sides busy.
    static let piecesInFlight = 4
    /// Of one rank's answer. Larger ones leave the caches on their way through both processes, and their memory goes back to
    /// the system after each.
    private static let pieceByteCount = 1 << 20

    var ranks: [RankIndex] { topology.shape.allRanks }
    /// Of one token on one rank.
    private var rowByteCount: Int {
        attention.kvHeads / topology.shape.headGroups * (attention.keyDim + attention.ownValueDim) * dataType.byteCount
    }

    /// Whole blocks on every rank, as far as positions allow.
    var pieces: [Range<Int>] {
        let layout = topology.shape.layout
        let blocks = max(1, Self.pieceByteCount / (rowByteCount * layout.blockTokens))
        let tokens = min(blocks * layout.blockTokens * layout.contextRanks, StepRequest.tokensMax)
        var pieces: [Range<Int>] = []
        var start = positions.lowerBound
        repeat {
            let end = min((start / tokens + 1) * tokens, positions.upperBound)
            pieces.append(start..<end)
            start = end
        } while start < positions.upperBound
        return pieces
    }
}
