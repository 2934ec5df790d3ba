// SPDX-License-Identifier: Apache-2.0

/// Finds the entries of a step that share blocks.
extension SharedRead {
    /// The shared reads of a step.
    package struct Found: Sendable {
        package fileprivate(set) var reads: [SharedRead] = []
        /// For each work, how many of its first pieces the shared reads compute.
        package fileprivate(set) var taken: [Int]
    }

    /// Finds the blocks that entries share from their first block on. Two blocks are the same if their addresses are.
    ///
    /// Takes time in proportion to the number of works and of the blocks that they share.
    package static func find(in works: [AttentionWork]) -> Found {
        var search = Search(works)
        search.run()
        return search.found
    }

    /// Works that share all blocks up to and including one.
    private struct Group {
        var works: [Int]
        var block: Int
    }

    private struct Search {
        let works: [AttentionWork]
        var found: Found
        var groups: [Group] = []

        init(_ works: [AttentionWork]) {
            self.works = works
            found = Found(taken: [Int](repeating: 0, count: works.count))
        }

        mutating func run() {
            // Most steps have one entry.
            guard works.count > 1 else { return }
            part(works.indices.filter { works[$0].maySharePieces }, at: 0)
            while let group = groups.popLast() {
                var end = group.block + 1
                while let first = block(end, of: group.works[0]),
                    group.works.allSatisfy({ block(end, of: $0) == first })
                {
                    end += 1
                }
                // The piece of a much longer context may not fit into what all share. The others continue without it.
                let tokens = end * works[group.works[0]].blocks.layout.blockTokens
                let fitting = group.works.filter { next(of: $0).upperBound <= tokens }
                let others = group.works.filter { next(of: $0).upperBound > tokens }
                take(fitting, upTo: tokens)
                part(fitting, at: end)
                part(others, at: end)
            }
        }

        /// Groups works by the address of one of their blocks, and drops those that share it with no other.
        private mutating func part(_ some: [Int], at block: Int) {
            struct Key: Hashable {
                let block: UnsafeRawPointer
                let start: Int
                let lightShare: Float
            }
            /// The index of a group, or the complement of the index of a work that is alone so far.
            var places: [Key: Int] = [:]
            places.reserveCapacity(some.count)
            for work in some where found.taken[work] < works[work].pieceCount {
                guard let address = self.block(block, of: work) else { continue }
                let key = Key(block: address, start: next(of: work).lowerBound, lightShare: works[work].lightShare)
                guard let place = places[key] else {
                    places[key] = ~work
                    continue
                }
                if place < 0 {
                    places[key] = groups.count
                    groups.append(Group(works: [~place, work], block: block))
                } else {
                    groups[place].works.append(work)
                }
            }
        }

        /// The next piece of a work that is not in a shared read yet.
        private func next(of work: Int) -> Range<Int> {
            works[work].split.pieces[found.taken[work]].keys
        }

        /// nil for a block that is not full: another sequence may have other tokens in it.
        private func block(_ index: Int, of work: Int) -> UnsafeRawPointer? {
            let blocks = works[work].blocks
            return (index + 1) * blocks.layout.blockTokens <= blocks.tokens ? blocks.blocks[index] : nil
        }

        /// Makes shared reads of the blocks that some works share, for as many works at a time as fit into a tile.
        private mutating func take(_ some: [Int], upTo tokens: Int) {
            guard some.count > 1 else { return }
            let rows = some.reduce(0) { $0 + works[$1].rowsOfTile }
            let reads = (rows + SharedRead.rowsMax - 1) / SharedRead.rowsMax
            var members: [Int] = [], count = 0
            for work in some {
                let own = works[work].rowsOfTile
                if count + own > SharedRead.rowsMax || count >= (rows + reads - 1) / reads {
                    makeRead(of: members, upTo: tokens)
                    (members, count) = ([], 0)
                }
                members.append(work)
                count += own
            }
            makeRead(of: members, upTo: tokens)
        }

        private mutating func makeRead(of members: [Int], upTo tokens: Int) {
            guard members.count > 1 else { return }
            var pieces: [Range<Int>] = []
            var firstPieces = members.map { _ in [Int]() }
            var start = next(of: members[0]).lowerBound
            while members.allSatisfy({ found.taken[$0] < works[$0].pieceCount }) {
                let end = members.reduce(0) { max($0, next(of: $1).upperBound) }
                guard end <= tokens else { break }
                pieces.append(start..<end)
                for (place, work) in members.enumerated() {
                    precondition(next(of: work).lowerBound == start, "pieces lie in each other")
                    firstPieces[place].append(found.taken[work])
                    let own = works[work].split.pieces
                    while found.taken[work] < own.count, own[found.taken[work]].keys.upperBound <= end {
                        found.taken[work] += 1
                    }
                }
                start = end
            }
            found.reads.append(SharedRead(members.map { works[$0] }, pieces: pieces, firstPieces: firstPieces))
        }
    }
}
