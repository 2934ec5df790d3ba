internal import DCPCore
internal import DCPWire

/// A claim of this client.
struct HeldClaim {
    var claim: Claim
    /// A request with it was not answered and may still come to the coordinator: the sequence is claimed anew before the
    /// next one.
    var isSpent = false
    /// A later one was asked for and not answered: ranks may know of it.
    var hasSuccessor = false
}

/// Who may change a sequence: this client, once it has claimed it, until another does.
extension Cluster {
    /// Entries or lengths with this client's claims on their sequences. A sequence that it has not used yet is claimed first.
    /// - Throws: `.staleEpoch` for one that it used in an older epoch: it has to be resumed.
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
                "\(known.claim) on \(sequence) is not of \(epoch), or a request with it was not answered; resume the sequence."
            )
            // The claim may be the newer of the two: the coordinator, which gave it, is ahead of the topology that is known.
            forgetTopology(after: error)
            throw error
        }
        return known.claim
    }

    /// Claims a sequence anew.
    /// - Parameter held: the claim to go on from; none takes the sequence over from whoever has it.
    /// - Throws: `.claimed` when another client has claimed it since.
    @discardableResult
    func takeClaim(of sequence: SequenceID, held: Claim = .none) async throws(ServiceError) -> Claim {
        if let shared = claiming[sequence] { return try await shared.value.get() }
        let task = Task { () async -> Result<Claim, ServiceError> in
            do throws(ServiceError) {
                return .success(try await directory(.claim(sequence, held: held)).claim)
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
        // What the coordinator may have forgotten over a restart, ranks and their stores remember.
        if let held { try await checkNotClaimed(sequence, since: held) }
        return try await takeClaim(of: sequence.id, held: held?.claim ?? .none)
    }

    /// Asks the directory to change a sequence, with this client's claim or a new one.
    @discardableResult
    func withClaim(
        on sequence: SequenceRecord, _ request: (Claim) -> DirectoryRequest
    ) async throws(ServiceError) -> DirectoryReply {
        if let known = claims[sequence.id], !known.isSpent {
            do throws(ServiceError) {
                return try await change(sequence, request(known.claim))
            } catch {
                // Of before the coordinator's restart.
                guard error.code == .staleEpoch else { throw error }
            }
        }
        return try await change(sequence, request(try await keepClaim(on: sequence)))
    }

    /// Without an answer the request may still come to the coordinator. The claim is spent with it: the next one fences the
    /// request off, or waits for it.
    private func change(
        _ sequence: SequenceRecord, _ request: DirectoryRequest
    ) async throws(ServiceError) -> DirectoryReply {
        do throws(ServiceError) {
            return try await directory(request)
        } catch {
            if error.isRetryable { claims[sequence.id]?.isSpent = true }
            throw error
        }
    }

    /// What overruled a request may be a later claim of this very client, which has resumed the sequence meanwhile.
    func explained(_ error: ServiceError, of requests: [Message]) -> ServiceError {
        guard error.code == .claimed,
            requests.contains(where: { message in
                message.claimStating.contains { part in
                    let held = claims[part.sequence]
                    return claiming[part.sequence] != nil || held?.hasSuccessor ?? false
                        || held?.claim ?? .none > part.claim
                }
            })
        else { return error }
        return ServiceError(
            .stepAborted, "This client has resumed the sequence since it sent the request; go on from there.",
            rank: error.rank)
    }

    /// Ranks do not tell a later claim of this client, whose answer was lost, from another's; the coordinator does.
    /// - Throws: `.claimed` when ranks know of a later claim of another client.
    func checkNotClaimed(_ sequence: SequenceRecord, since held: HeldClaim) async throws(ServiceError) {
        guard !held.hasSuccessor else { return }
        let statuses = try await rankStatuses(of: [sequence.id][...], in: readyTopology())[sequence.id] ?? []
        guard let latest = statuses.map(\.1.claim).max(), latest > held.claim else { return }
        throw ServiceError(
            .claimed,
            "Sequence `\(sequence.name)` was claimed by another client (\(latest)) after \(held.claim). One client at a time uses a "
                + "sequence: resume it to take it over.")
    }
}

/// A part of a request that is about one sequence.
protocol ClaimStating {
    var sequence: SequenceID { get }
    var claim: Claim { get set }
}

extension StepRequest.Entry: ClaimStating {}
extension SequenceLength: ClaimStating {}

extension Message {
    fileprivate var claimStating: [any ClaimStating] {
        switch self {
        case .step(let step): step.entries
        case .commit(let lengths): lengths
        case .rewind(let length): [length]
        default: []
        }
    }
}
