// SPDX-License-Identifier: Apache-2.0

package import DCPCore

/// Where ids come from that a `PrefixTree` has to look at: the store, or a test's arrays.
package protocol TokenSource: ~Copyable {
    /// - Throws: `UnreadableTokens`.
    borrowing func id(of sequence: SequenceID, at position: Int) throws -> UInt32

    /// How many ids two sequences have in common, up to `end`.
    /// - Parameter start: number of ids known to be equal.
    borrowing func commonLength(_ a: SequenceID, _ b: SequenceID, from start: Int, upTo end: Int) throws -> Int

    /// How many of the first of `ids` a sequence begins with, up to `end`.
    borrowing func commonLength(_ ids: [UInt32], _ sequence: SequenceID, upTo end: Int) throws -> Int
}

/// A sequence's ids cannot be read: they are damaged, and no prefix of it may be promised.
package struct UnreadableTokens: Error {
    package var sequence: SequenceID
    package var message: String

    package init(sequence: SequenceID, message: String) {
        self.sequence = sequence
        self.message = message
    }
}

/// The sequences of one model and scope by their token ids: a radix tree that holds positions and no ids.
///
/// DESIGN. A node is a prefix that several sequences part after, or that one ends at. It knows its length and, of the edge to
/// it, the first id; what lies further on the edge is read where it is stored, from any sequence below. A search goes down
/// by those first ids alone, as in Patricia, and compares once, at the end: the sequence it arrives at shares the longest
/// prefix with what was searched for, since every other one parts from the way at a node of it. So a match reads as many ids
/// as it promises, however many sequences there are and wherever they part.
///
/// Rejected: hashes of blocks of ids, chained. They cost memory for each token, where this costs some for each sequence; they
/// need a second way to decide among the sequences that part inside one block; and two that collide must be found out.
///
/// A sequence that grows alone on its edge, as nearly all do, changes one number.
package struct PrefixTree: Sendable {
    struct Node: Sendable {
        /// Tokens.
        var length: Int
        var parent: Int
        /// The first id of the edge from the parent.
        var key: UInt32
        /// The lowest sequence that ends here or below.
        var lowest: SequenceID
        /// Those that end here, by id.
        var ends: [SequenceID] = []
        /// By the first id of the edge.
        var children: [UInt32: Int] = [:]
    }

    static let root = 0
    /// Of a node without sequences.
    private static let none = SequenceID(.max)

    private(set) var nodes = [Node(length: 0, parent: -1, key: 0, lowest: none)]
    private var spare: [Int] = []
    private var places: [SequenceID: Int] = [:]

    package init() {}

    var isEmpty: Bool { places.isEmpty }

    /// With the root; at most two for each sequence beside it.
    package var nodeCount: Int { nodes.count - spare.count }

    package func contains(_ sequence: SequenceID) -> Bool { places[sequence] != nil }

    package func length(of sequence: SequenceID) -> Int? { places[sequence].map { nodes[$0].length } }

    /// Where the search for some ids ends: they share `length` ids with the edge to `node`, and then differ from it.
    struct Location {
        var node: Int
        var length: Int
    }

    /// - Parameters:
    ///   - start: a node whose ids the searched begin with.
    ///   - end: how many ids are searched for.
    ///   - commonLength: of them and of a sequence, up to a length.
    func locate(
        from start: Int, end: Int, id: (_ position: Int) throws -> UInt32,
        commonLength: (SequenceID, _ end: Int) throws -> Int
    ) rethrows -> Location {
        var node = start
        while nodes[node].length < end, let child = nodes[node].children[try id(nodes[node].length)] { node = child }
        guard node != start else { return Location(node: node, length: nodes[node].length) }
        let length = try commonLength(nodes[node].lowest, min(end, nodes[node].length))
        precondition(length > nodes[start].length, "an edge does not begin with its key")
        return Location(node: climb(from: node, to: length), length: length)
    }

    /// The topmost node on the way to `node` that is not shorter than a length.
    private func climb(from node: Int, to length: Int) -> Int {
        var node = node
        while node != Self.root, nodes[nodes[node].parent].length >= length { node = nodes[node].parent }
        return node
    }

    // MARK: Changes. All reads come before the first change.

    /// Adds a sequence with this many ids, at least one.
    package mutating func insert<Source: TokenSource & ~Copyable>(
        _ sequence: SequenceID, length: Int, from source: borrowing Source
    ) throws {
        precondition(length > 0 && places[sequence] == nil, "\(sequence) has no ids, or is already in the tree")
        try insert(sequence, length: length, under: Self.root, source)
    }

    /// A sequence has grown to this many ids.
    package mutating func extend<Source: TokenSource & ~Copyable>(
        _ sequence: SequenceID, to length: Int, from source: borrowing Source
    ) throws {
        guard let node = places[sequence], length > nodes[node].length else { return }
        if nodes[node].children.isEmpty, nodes[node].ends.count == 1 {
            nodes[node].length = length
            return
        }
        try insert(sequence, length: length, under: node, source)
        take(sequence, from: node)
    }

    /// Adds a sequence that begins as another does and ends there.
    package mutating func fork<Source: TokenSource & ~Copyable>(
        _ parent: SequenceID, _ child: SequenceID, length: Int, from source: borrowing Source
    ) throws {
        guard let node = places[parent], length > 0, places[child] == nil else { return }
        try end(child, on: node, at: length, source)
    }

    /// - Parameter source: what the sequence had before, or others have that begin in the same way.
    package mutating func truncate<Source: TokenSource & ~Copyable>(
        _ sequence: SequenceID, to length: Int, from source: borrowing Source
    ) throws {
        guard let node = places[sequence], length < nodes[node].length else { return }
        guard length > 0 else { return remove(sequence) }
        if nodes[node].children.isEmpty, nodes[node].ends.count == 1, climb(from: node, to: length) == node {
            nodes[node].length = length
            return
        }
        try end(sequence, on: node, at: length, source)
        take(sequence, from: node)
    }

    package mutating func remove(_ sequence: SequenceID) {
        guard let node = places.removeValue(forKey: sequence) else { return }
        take(sequence, from: node)
    }

    // MARK: Nodes

    private mutating func insert<Source: TokenSource & ~Copyable>(
        _ sequence: SequenceID, length: Int, under start: Int, _ source: borrowing Source
    ) throws {
        let known = nodes[start].length
        let found = try locate(from: start, end: length) {
            try source.id(of: sequence, at: $0)
        } commonLength: {
            try source.commonLength(sequence, $0, from: known, upTo: $1)
        }
        let key = found.length < length ? try source.id(of: sequence, at: found.length) : nil
        let node = try split(found.node, at: found.length, source)
        guard let key else { return add(sequence, to: node) }
        let leaf = make(Node(length: length, parent: node, key: key, lowest: Self.none))
        nodes[node].children[key] = leaf
        add(sequence, to: leaf)
    }

    /// Lets a sequence end on the way to a node.
    private mutating func end<Source: TokenSource & ~Copyable>(
        _ sequence: SequenceID, on node: Int, at length: Int, _ source: borrowing Source
    ) throws {
        add(sequence, to: try split(climb(from: node, to: length), at: length, source))
    }

    /// The node of a length on the edge to another, made where there is none.
    private mutating func split<Source: TokenSource & ~Copyable>(
        _ node: Int, at length: Int, _ source: borrowing Source
    ) throws -> Int {
        let former = nodes[node]
        guard former.length > length else { return node }
        let key = try source.id(of: former.lowest, at: length)
        let middle = make(Node(length: length, parent: former.parent, key: former.key, lowest: former.lowest))
        nodes[middle].children[key] = node
        nodes[former.parent].children[former.key] = middle
        nodes[node].parent = middle
        nodes[node].key = key
        return middle
    }

    private mutating func make(_ node: Node) -> Int {
        if let index = spare.popLast() {
            nodes[index] = node
            return index
        }
        nodes.append(node)
        return nodes.count - 1
    }

    private mutating func add(_ sequence: SequenceID, to node: Int) {
        places[sequence] = node
        let index = nodes[node].ends.sortedCount { $0 < sequence }
        nodes[node].ends.insert(sequence, at: index)
        var above = node
        while above >= 0, sequence < nodes[above].lowest {
            nodes[above].lowest = sequence
            above = nodes[above].parent
        }
    }

    /// A sequence no longer ends at a node. It may end below.
    private mutating func take(_ sequence: SequenceID, from node: Int) {
        let index = nodes[node].ends.sortedCount { $0 < sequence }
        precondition(nodes[node].ends[index] == sequence, "\(sequence) does not end where it was placed")
        nodes[node].ends.remove(at: index)
        var above = node
        while above >= 0, nodes[above].lowest == sequence {
            let below = nodes[above].children.values.map { nodes[$0].lowest }
            nodes[above].lowest = min(nodes[above].ends.first ?? Self.none, below.min() ?? Self.none)
            above = nodes[above].parent
        }
        tidy(node)
    }

    /// Removes a node at which nothing ends and nothing parts.
    private mutating func tidy(_ node: Int) {
        guard node != Self.root, nodes[node].ends.isEmpty, nodes[node].children.count < 2 else { return }
        let (parent, key) = (nodes[node].parent, nodes[node].key)
        let child = nodes[node].children.values.first
        nodes[node] = Node(length: 0, parent: -1, key: 0, lowest: Self.none)
        spare.append(node)
        nodes[parent].children[key] = child
        if let child {
            nodes[child].parent = parent
            nodes[child].key = key
        } else {
            tidy(parent)
        }
    }
}
