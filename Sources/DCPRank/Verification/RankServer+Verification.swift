// SPDX-License-Identifier: Apache-2.0

internal import DCPCache
internal import DCPCore
internal import DCPTransport
internal import DCPWire

/// Verifications requested by clients: one at a time.
extension RankServer {
    /// Answers at once. A rank that is not serving verifies too: that may be why it is not.
    func verify(_ request: VerificationRequest, _ call: Call<VerificationRequest>) {
        if request.start, verification?.state != .running {
            guard stopping.drain == nil else {
                let error = ServiceError(.shuttingDown, "\(configuration.rank) is stopping; try again later.")
                return refuse(call, error)
            }
            if let sequence = request.sequence, cache.state(of: sequence) == nil {
                let error = ServiceError(
                    .unknownSequence,
                    "\(sequence) is not in the store of \(configuration.rank), or its record is damaged; verify the whole "
                        + "store.")
                return refuse(call, error)
            }
            startVerification(of: request.sequence)
        }
        let status =
            verification?.status(from: request.firstFinding)
            ?? VerificationStatus(
                run: 0, state: .idle, sequence: nil, progress: VerificationProgress(), failure: "", findingCount: 0,
                damageCount: 0, keptCount: 0, firstFinding: request.firstFinding, findings: [])
        answer(call, status)
    }

    private func startVerification(of sequence: SequenceID?) {
        let run = VerificationRun(
            number: (verification?.number ?? 0) + 1, sequence: sequence, cache: cache, eventLoop: eventLoop,
            isBusy: { [weak self] in self.map { !$0.steps.executions.isEmpty } ?? false },
            ended: { [weak self] run in
                let failure = run.state == .failed ? run.failure : nil
                self?.observe(.verified(findings: run.findingCount, damage: run.damageCount, failure: failure))
            })
        verification = run
        run.advance()
    }
}
