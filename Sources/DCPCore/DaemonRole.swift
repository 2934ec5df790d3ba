// SPDX-License-Identifier: Apache-2.0

/// One daemon of a cluster.
public enum DaemonRole: Hashable, Sendable, CustomStringConvertible {
    case coordinator
    case rank(RankIndex)

    /// `coordinator`, `rank 2`.
    public var description: String {
        switch self {
        case .coordinator: "coordinator"
        case .rank(let rank): rank.description
        }
    }

    /// `coordinator`, `rank-2`: its directory, and what begins with it.
    public var fileName: String {
        switch self {
        case .coordinator: "coordinator"
        case .rank(let rank): "rank-\(rank.value)"
        }
    }

    /// - Parameter fileName: as ``fileName`` has it; nil for anything else.
    public init?(fileName: String) {
        if fileName == "coordinator" {
            self = .coordinator
        } else if fileName.hasPrefix("rank-"), let number = UInt16(fileName.dropFirst(5)), "rank-\(number)" == fileName
        {
            self = .rank(RankIndex(number))
        } else {
            return nil
        }
    }
}
