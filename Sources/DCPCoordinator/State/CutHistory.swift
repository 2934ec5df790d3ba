package import DCPCore

/// Where a sequence was cut, and in which epoch, as a value.
///
/// From a cut on a sequence may go on with other tokens, and its length does not tell the old ones from the new. A rank has
/// carried out every cut of the epochs before the one that its store has seen last; of that one's cuts, and of later ones, an
/// older copy of the store may lack any.
package struct CutHistory: Hashable, Sendable {
    package struct Cut: Hashable, Sendable {
        package var epoch: Epoch
        package var length: Int

        package init(epoch: Epoch, length: Int) {
            self.epoch = epoch
            self.length = length
        }
    }

    /// Of more the two oldest become one, which is the shorter of them and the later: more is then given up than has to be.
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

    /// How much of the sequence a store can have that has seen this epoch and none after it; nil when nothing was cut since.
    package func shortest(since epoch: Epoch) -> Int? { cuts.first { $0.epoch >= epoch }?.length }
}
