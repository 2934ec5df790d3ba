// SPDX-License-Identifier: Apache-2.0

package import DCPCore
package import DCPWire

/// How a client makes the ranks agree on a sequence that it has just claimed, as a value: their status comes in,
/// requests go out.
///
/// `Cluster.resume` and the simulator's clients drive it. The claim has ended all running requests, so the ranks' state
/// changes only by the requests made here.
package enum Resumption: Hashable, Sendable {
    /// All layers end at one length on all ranks: the client continues from there.
    case settled
    /// Every rank must cut all layers to this length.
    case rewind(Int)
    /// A rank has committed tokens that another has lost. That commit was never acknowledged; only the coordinator can
    /// undo it.
    case truncate(Int)

    /// - Parameter lengthMax: the maximum length to keep, unless more is committed; nil keeps the common length.
    package init(of progress: SequenceProgress, atMost lengthMax: Int?) {
        let kept = progress.length
        guard progress.longestCommittedLength <= kept else {
            self = .truncate(progress.committedLength)
            return
        }
        // Tokens that one rank has committed stay: the others have them, and the next commit makes them equal.
        let target = max(min(kept, lengthMax ?? kept), progress.longestCommittedLength)
        let isEven = !progress.isUneven && progress.layerLengths.allSatisfy { $0 == target }
        self = isEven ? .settled : .rewind(target)
    }
}

extension SequenceProgress {
    /// - Parameter statuses: one of each rank.
    package init(_ statuses: [(RankIndex, SequenceStatus)]) {
        let layers = statuses.map(\.1.layerLengths.count).min() ?? 0
        committedLength = statuses.map(\.1.committedLength).min() ?? 0
        longestCommittedLength = statuses.map(\.1.committedLength).max() ?? 0
        layerLengths = (0..<layers).map { layer in statuses.map { $0.1.layerLengths[layer] }.min() ?? 0 }
        localTokens = Dictionary(uniqueKeysWithValues: statuses.map { ($0.0, $0.1.localTokens) })
        tokenIDs = statuses.map(\.1.tokenIDs).min() ?? 0
        isUneven = (0..<layers).contains { layer in Set(statuses.map { $0.1.layerLengths[layer] }).count > 1 }
    }
}
