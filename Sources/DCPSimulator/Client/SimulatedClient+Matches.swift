// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPOracle
internal import DCPWire

/// Matches, as `Cluster.match` makes them: one rank answers, and all report their lengths. Then the ids of the match
/// are requested from all.
extension SimulatedClient {
    func match(then: @escaping () -> Void) {
        doing = "matching"
        guard let own = sequences.filter({ !$0.ids.isEmpty }).randomElement(using: &world.random) else { return then() }
        let wanted = Array(own.ids.prefix(world.draw(1...own.ids.count))) + (world.chance(0.5) ? [7] : [])
        // Sequences of other clients change meanwhile; this client's must be found.
        let least =
            sequences.filter(\.hasIDs).map { sequence in
                zip(wanted, sequence.ids.prefix(sequence.floor)).prefix { $0 == $1 }.count
            }.max() ?? 0
        let losses = losses
        simulation.count("matches")
        let rank = cluster.allRanks.randomElement(using: &world.random)!
        ask(rank, MatchTokens(MatchQuestion(model: model!.id, scope: "", ids: wanted))) { [self] reply in
            let length = reply.found?.length ?? 0
            guard length >= least || simulation.hasDamage || losses != self.losses else {
                return simulation.violate(
                    .wrongPrefix,
                    "\(name): a match found \(length) tokens, but \(least) of its own tokens are committed")
            }
            guard let found = reply.found else { return then() }
            guard length <= wanted.count else {
                return simulation.violate(.wrongPrefix, "\(name): a match of \(wanted.count) ids found \(length)")
            }
            confirm(found, wanted, then)
        }
    }

    /// Takes the least that any rank has, as a client does before it goes on from there.
    private func confirm(_ found: HeldLength, _ wanted: [UInt32], _ then: @escaping () -> Void) {
        askRanks(Many([GetSequenceStatus(found.sequence)]), timeout: simulation.requestTimeout) {
            [self] result in
            switch result {
            case .success(let replies):
                let statuses = replies.values.compactMap { try? $0.answers[0].get() }
                guard statuses.count == cluster.ranks, statuses.allSatisfy({ $0.tokenIDs == $0.committedLength }) else {
                    return then()
                }
                let length = min(found.length, statuses.map(\.committedLength).min()!)
                guard length > 0 else { return then() }
                check(found.sequence, Array(wanted[..<length]), then)
            case .failure(let error): failed(error)
            }
        }
    }

    /// Asks every rank for what was promised. A sequence of another client may have been cut or closed since.
    private func check(_ sequence: SequenceID, _ promised: [UInt32], _ then: @escaping () -> Void) {
        let isOwn = sequences.contains { $0.record?.id == sequence }
        let request = ReadTokens(sequence, start: 0, count: promised.count, wantsAnnotation: true)
        askRanks(request, timeout: simulation.requestTimeout) { [self] result in
            switch result {
            case .success(let replies):
                for rank in cluster.allRanks where isOwn && replies[rank]!.ids != promised {
                    return simulation.violate(
                        .wrongPrefix, "\(name): \(rank) has other ids of \(sequence) than were promised")
                }
                then()
            case .failure(let error) where !isOwn && [.positionMismatch, .unknownSequence].contains(error.code): then()
            case .failure(let error) where error.code == .positionMismatch:
                simulation.violate(.wrongPrefix, "\(name): a rank lacks tokens that were promised: \(error)")
            case .failure(let error): failed(error)
            }
        }
    }

    /// Asks one rank.
    private func ask<R: Request>(_ rank: RankIndex, _ request: R, done: @escaping (R.Reply) -> Void) {
        let turn = turn
        let message = Message.request(request)
        let frame = Frame(epoch: topology!.epoch, tag: takeTag(), message: message)
        connection(to: rank).request(frame, timeout: simulation.requestTimeout) { [self] result in
            noteTimeout(result, message)
            guard turn == self.turn, !isFinished else { return }
            switch result.flatMap({ frame in Result { () throws(ServiceError) in try frame.reply(to: R.self) } }) {
            case .success(let reply): done(reply)
            case .failure(let error): failed(error)
            }
        }
    }
}
