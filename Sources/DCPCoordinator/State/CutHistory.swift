// SPDX-License-Identifier: Apache-2.0

package import DCPCore

/// The cuts of a sequence with their epochs, as a value.
///
/// After a cut a sequence may continue with other tokens, and its length does not distinguish the old ones from the
/// new. A rank has applied every cut of the epochs before the last one that its store has seen; an older copy of the
/// store may lack any cut of that epoch and later ones.
package struct CutHistory: Hashable, Sendable {
    package struct Cut: Hashable, Sendable {
        package var epoch: Epoch
        package var length: Int

        package init(epoch: Epoch, length: Int) {
            self.epoch = epoch
            self.length = length
        }
    }

    /// If there are more, the two oldest are merged into the shorter length and the later epoch, which may give up more
    /// than necessary.
    package static let cutsMax = 8

    /// Epochs rise, and so do lengths: a cut undoes what a longer one before it has changed.
    package private(set) var cuts: [Cut]

    package init(_ cuts: [Cut] = []) { self.cuts = cuts }

    package mutating func note(_ length: Int, in epoch: Epoch) {
        cuts.removeAll { $0.length >= length }
        guard cuts.last?.epoch != epoch else { return }
        cuts.append(Cut(epoch: epoch, length: length))
        guard cuts.count > Self.cutsMax else { return }
        cuts[1].length = cuts[0].length
        cuts.removeFirst()
    }

    /// The valid length of the sequence in a store whose last epoch is this one; nil if nothing was cut since.
    package func shortest(since epoch: Epoch) -> Int? { cuts.first { $0.epoch >= epoch }?.length }
}
