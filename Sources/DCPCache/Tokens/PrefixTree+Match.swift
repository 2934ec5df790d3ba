// SPDX-License-Identifier: Apache-2.0

package import DCPCore

extension PrefixTree {
    /// The sequence with the longest common prefix, and its length, at least 1. Among equals that of the lowest id, so that
    /// all ranks answer alike.
    /// - Parameter isEligible: asked of one sequence after the other, until one is.
    package func match<Source: TokenSource & ~Copyable>(
        _ ids: [UInt32], from source: borrowing Source, where isEligible: (SequenceID) -> Bool
    ) throws -> (sequence: SequenceID, length: Int)? {
        let found = try locate(from: Self.root, end: ids.count) {
            ids[$0]
        } commonLength: {
            try source.commonLength(ids, $0, upTo: $1)
        }
        var (node, length) = (found.node, found.length)
        var searched: Int?
        // Those that part from the ids earlier share less with them, up to the root, with which they share nothing.
        while length > 0 {
            if let sequence = lowest(at: node, except: searched, where: isEligible) { return (sequence, length) }
            searched = node
            node = nodes[node].parent
            length = nodes[node].length
        }
        return nil
    }

    /// The lowest sequence that ends at a node or below.
    private func lowest(at node: Int, except searched: Int?, where isEligible: (SequenceID) -> Bool) -> SequenceID? {
        var best: SequenceID?
        var waiting = [node]
        while let next = waiting.popLast() {
            if let best, nodes[next].lowest >= best { continue }
            for sequence in nodes[next].ends {
                if let best, sequence >= best { break }
                guard isEligible(sequence) else { continue }
                best = sequence
                break
            }
            for child in nodes[next].children.values where child != searched { waiting.append(child) }
        }
        return best
    }
}
