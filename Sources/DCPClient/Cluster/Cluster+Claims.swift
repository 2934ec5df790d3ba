// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPWire

/// A claim of this client.
struct HeldClaim {
    var claim: Claim
    /// A request with it was not answered and may still reach the coordinator: the sequence is claimed again before the
    /// next one.
    var isSpent = false
    /// A later claim was requested without an answer: ranks may know it.
    var hasSuccessor = false
}

/// Claims: this client may change a sequence after claiming it, until another client claims it.
extension Cluster {
    /// Adds this client's claims to entries or lengths. A sequence that it has not used yet is claimed first.
    /// - Throws: `.staleEpoch` for a sequence that it used in an older epoch: it must be resumed.
    func claimed<Part: ClaimStating>(_ parts: [Part], in epoch: Epoch) async throws(ServiceError) -> [Part] {
        var claimed = parts
        for index in parts.indices { claimed[index].claim = try await claim(of: parts[index].sequence, in: epoch) }
        return claimed
    }

    private func claim(of sequence: SequenceID, in epoch: Epoch) async throws(ServiceError) -> Claim {
        guard let known = claims[sequence] else { return try await takeClaim(of: sequence) }
        guard known.claim.isOf(epoch), !known.isSpent else {
            let error = ServiceError(
                .staleEpoch,
                "\(known.claim) on \(sequence) does not belong to \(epoch), or a request with it was not answered; "
                    + "resume the sequence."
            )
            // The claim may be the newer of the two: the coordinator, which gave it, is ahead of the topology that is known.
            forgetTopology(after: error)
            throw error
        }
        return known.claim
    }

    /// Claims a sequence again.
    /// - Parameter held: the claim to continue from; none takes the sequence over from its current client.
    /// - Throws: `.claimed` if another client has claimed it since.
    @discardableResult
    func takeClaim(of sequence: SequenceID, held: Claim = .none) async throws(ServiceError) -> Claim {
        if let shared = claiming[sequence] { return try await shared.value.get() }
        let task = Task { () async -> Result<Claim, ServiceError> in
            do throws(ServiceError) {
                return .success(try await ask(one: ClaimSequence(sequence, held: held)))
            } catch {
                return .failure(error)
            }
        }
        claiming[sequence] = task
        let result = await task.value
        claiming[sequence] = nil
        if case .failure(let error) = result, error.isRetryable { claims[sequence]?.hasSuccessor = true }
        let claim = try result.get()
        forgetTopology(unlessOf: claim)
        claims[sequence] = HeldClaim(claim: claim)
        return claim
    }

    /// Claims a sequence that this client had a claim on, unless another client has claimed it since.
    @discardableResult
    func keepClaim(on sequence: SequenceRecord) async throws(ServiceError) -> Claim {
        let held = claims[sequence.id]
        // After a restart the coordinator may not know a claim, but ranks and their stores do.
        if let held { try await checkNotClaimed(sequence, since: held) }
        return try await takeClaim(of: sequence.id, held: held?.claim ?? .none)
    }

    /// Requests changes of sequences from the coordinator, with this client's claims or new ones. Each succeeds or
    /// fails independently.
    /// - Parameter item: the request for the sequence at an index of `sequences`, with the claim on it.
    func withClaims<Item: RequestItem>(
        on sequences: [SequenceRecord], _ item: (Int, Claim) -> Item
    ) async throws(ServiceError) -> [Result<Item.Answer, ServiceError>] {
        var answers: [Result<Item.Answer, ServiceError>?] = Array(repeating: nil, count: sequences.count)
        var known: [(index: Int, claim: Claim)] = []
        for (index, sequence) in sequences.enumerated() {
            if let held = claims[sequence.id], !held.isSpent { known.append((index, held.claim)) }
        }
        for (entry, answer) in zip(known, try await change(known, sequences, item)) {
            // Of before the coordinator's restart: it is claimed anew below.
            if case .failure(let error) = answer, error.code == .staleEpoch { continue }
            answers[entry.index] = answer
        }
        var anew: [(index: Int, claim: Claim)] = []
        for index in sequences.indices where answers[index] == nil {
            do throws(ServiceError) {
                // A sequence that is named twice is claimed once.
                let isClaimed = anew.contains { sequences[$0.index].id == sequences[index].id }
                let claim = isClaimed ? claims[sequences[index].id]?.claim : nil
                if let claim {
                    anew.append((index, claim))
                } else {
                    anew.append((index, try await keepClaim(on: sequences[index])))
                }
            } catch {
                answers[index] = .failure(error)
            }
        }
        for (entry, answer) in zip(anew, try await change(anew, sequences, item)) { answers[entry.index] = answer }
        return answers.map { $0! }
    }

    /// Without an answer the request may still reach the coordinator. The claim is used up: the next claim fences the
    /// request off, or waits for it.
    private func change<Item: RequestItem>(
        _ parts: [(index: Int, claim: Claim)], _ sequences: [SequenceRecord], _ item: (Int, Claim) -> Item
    ) async throws(ServiceError) -> [Result<Item.Answer, ServiceError>] {
        guard !parts.isEmpty else { return [] }
        do throws(ServiceError) {
            let answers = try await ask(each: parts.map { item($0.index, $0.claim) })
            for (part, answer) in zip(parts, answers) {
                if case .failure(let error) = answer, error.isRetryable {
                    claims[sequences[part.index].id]?.isSpent = true
                }
            }
            return answers
        } catch {
            if error.isRetryable { for part in parts { claims[sequences[part.index].id]?.isSpent = true } }
            throw error
        }
    }

    /// A later claim of this client, which has resumed the sequence meanwhile, may have overruled the request.
    func explained<R: Request>(_ error: ServiceError, of requests: [R]) -> ServiceError {
        guard error.code == .claimed,
            requests.contains(where: { request in
                (request as? any ClaimsStating)?.claimStating.contains { isOwn(successorOf: $0) } ?? false
            })
        else { return error }
        return resumedSince(error)
    }

    /// As above, for the answer to one part of a request.
    func explained(_ error: ServiceError, of part: any ClaimStating) -> ServiceError {
        error.code == .claimed && isOwn(successorOf: part) ? resumedSince(error) : error
    }

    /// Whether this client has claimed the sequence since, or is about to.
    private func isOwn(successorOf part: any ClaimStating) -> Bool {
        let held = claims[part.sequence]
        return claiming[part.sequence] != nil || held?.hasSuccessor ?? false || held?.claim ?? .none > part.claim
    }

    private func resumedSince(_ error: ServiceError) -> ServiceError {
        ServiceError(
            .stepAborted, "This client resumed the sequence after it sent the request; continue from there.",
            rank: error.rank)
    }

    /// Ranks cannot distinguish a later claim of this client, whose answer was lost, from another's; the coordinator
    /// can.
    /// - Throws: `.claimed` if ranks know a later claim of another client.
    func checkNotClaimed(_ sequence: SequenceRecord, since held: HeldClaim) async throws(ServiceError) {
        guard !held.hasSuccessor else { return }
        let statuses = try await rankStatuses(of: [sequence.id], in: readyTopology())[sequence.id] ?? []
        guard let latest = statuses.map(\.1.claim).max(), latest > held.claim else { return }
        throw ServiceError(
            .claimed,
            "Sequence `\(sequence.name)` was claimed by another client (\(latest)) after \(held.claim). Only one "
                + "client at a time may use a sequence; resume it to take it over.")
    }
}

/// A part of a request that is about one sequence.
protocol ClaimStating {
    var sequence: SequenceID { get }
    var claim: Claim { get set }
}

extension StepRequest.Entry: ClaimStating {}
extension SequenceLength: ClaimStating {}
extension SequenceCommit: ClaimStating {}

/// A request whose parts are about sequences.
protocol ClaimsStating {
    var claimStating: [any ClaimStating] { get }
}

extension StepRequest: ClaimsStating {
    var claimStating: [any ClaimStating] { entries + commits }
}

extension Commit: ClaimsStating {
    var claimStating: [any ClaimStating] { parts }
}
