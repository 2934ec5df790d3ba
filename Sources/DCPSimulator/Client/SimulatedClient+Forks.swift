// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPWire

/// Forks, alone or as a client makes them that branches off and goes back: some of one sequence and then a truncation of it, in
/// one go with one claim.
extension SimulatedClient {
    private final class Branch {
        let child: ModelSequence
        let length: Int
        /// What of it is promised to be committed: of the parent it was.
        let promised: Int
        /// Losses of power when it was drawn.
        let losses: Int
        /// Nothing may be missing of it once it is there, although its own answer never came.
        var isRecorded = false

        init(_ name: String, of parent: ModelSequence, length: Int, losses: Int) {
            child = ModelSequence(name: name, forkOf: parent, length: length)
            self.length = length
            promised = min(length, parent.floor)
            self.losses = losses
        }
    }

    func fork(_ parent: ModelSequence) {
        let isBurst = world.chance(0.5)
        let branches = (0..<(isBurst ? world.draw(1...3) : 1)).map { _ in
            forks += 1
            let isOfUncommitted = parent.length > parent.floor && world.chance(0.5)
            if isOfUncommitted { simulation.count("forks of uncommitted tokens") }
            let length = isOfUncommitted ? world.draw(parent.floor + 1...parent.length) : world.draw(0...parent.floor)
            return Branch("\(name)-fork-\(forks)", of: parent, length: length, losses: losses)
        }
        guard isBurst else { return fork(parent, branches, cut: nil) }
        let cut = world.draw(0...branches.map(\.promised).min()!)
        parent.promiseAtMost(cut)
        simulation.mayKillSoon()
        fork(parent, branches, cut: cut, isBurst: true)
    }

    private func request(_ branch: Branch, of parent: ModelSequence) -> (Claim) -> ForkSequence {
        { ForkSequence(name: parent.name, newName: branch.child.name, length: branch.length, claim: $0) }
    }

    /// - Parameters:
    ///   - branches: still to be answered.
    ///   - isBurst: whether the others and the truncation are sent behind the first.
    private func fork(_ parent: ModelSequence, _ branches: [Branch], cut: Int?, isBurst: Bool = false) {
        guard let branch = branches.first else {
            if let cut { return truncate(parent, to: cut) }
            return recover(after: nil)
        }
        let name = branch.child.name
        func opened(_ record: SequenceRecord, isWhole: Bool) {
            branch.child.record = record
            if isWhole, branch.losses == losses { branch.child.acknowledge(branch.promised, at: world.now) }
            sequences.append(branch.child)
            fork(parent, Array(branches.dropFirst()), cut: cut)
        }
        unanswered = DirectoryWish(
            of: parent, request: request(branch, of: parent), done: { opened($0, isWhole: true) },
            refused: { [self] error in
                switch error.code {
                case .conflict:
                    // An earlier request that was not answered had made it, or is still being undone.
                    unanswered = DirectoryWish(
                        request: OpenSequence(name: name, model: "", create: false),
                        done: { [self] in opened($0.sequence, isWhole: branch.isRecorded && !simulation.hasDamage) },
                        refused: { [self] in recover(after: $0) })
                    askDirectory()
                case .storeDamaged where simulation.hasDamage: truncate(parent, to: 0)
                // The parent has become shorter: a loss of power that took what was not synced, or the truncation behind.
                case .invalidRequest where branch.length > parent.floor: recover(after: error)
                default: unexpected(error, "forking \(parent.name) at \(branch.length)")
                }
            })
        unanswered!.recorded = { branch.isRecorded = true }
        unanswered!.isRepeated = cut != nil && !isBurst
        guard isBurst, let cut else { return askDirectory() }
        unanswered!.behind =
            branches.dropFirst().map { one in
                let request = request(one, of: parent)
                return ({ AnyItem(request($0)) }, { one.isRecorded = true })
            } + [({ AnyItem(TruncateSequence(name: parent.name, length: cut, claim: $0)) }, {})]
        askDirectory()
    }
}
