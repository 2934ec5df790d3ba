// SPDX-License-Identifier: Apache-2.0

internal import DCPCache
internal import DCPCore
internal import DCPTransport
internal import DCPWire
internal import NIOCore

/// Operations that the coordinator has recorded and every rank applies.
extension CoordinatorSession {
    func carryOut(_ operation: DirectoryOperation, number: UInt64) {
        let bound = NIOLoopBound(self, eventLoop: server.eventLoop)
        let eventLoop = server.eventLoop
        let done: @Sendable (Result<Void, ServiceError>) -> Void = { result in
            eventLoop.execute { bound.value.carriedOut(operation, number, result) }
        }
        let changed = ServiceError(.stepAborted, "The sequence was changed while the step was in flight.")
        let cache = server.cache
        // A join repeats what a rank cannot do, and until it is over nothing is closed that would make room.
        let isOwed = isJoining
        switch operation {
        case .putModel(let record):
            cache.putModel(
                id: record.id, name: record.name, description: record.description, isOwed: isOwed, completion: done)
        case .removeModel(let model):
            cache.removeModel(model, completion: done)
        case .open(let record):
            cache.openSequence(
                id: record.id, model: record.model, scope: record.scope, name: record.name, isOwed: isOwed,
                completion: done)
        case .fork(let parent, let child, let length, let name):
            server.work.beginWriting(parent)
            // Committed tokens do not change, and the fork does not read tokens after it.
            server.whenInPlace(parent, to: length) {
                cache.fork(
                    parent: parent, child: child, length: Position(length), name: name, isOwed: isOwed,
                    completion: done)
            }
        case .truncate(let sequence, let length):
            server.work.beginChange(of: sequence)
            server.abortSteps(on: sequence, changed)
            server.when(.withoutSteps(sequence)) {
                cache.truncate(sequence, length: Position(length), completion: done)
            }
        case .close(let sequence), .evict(let sequence):
            if case .evict = operation { server.uses.noteEviction(of: sequence) }
            server.work.beginChange(of: sequence)
            server.abortSteps(on: sequence, changed)
            server.when(.withoutSteps(sequence)) { cache.close(sequence, completion: done) }
        case .claim(let sequence, let claim, let holder):
            server.take(over: sequence, claim, by: holder) { [weak self] in self?.carriedOut(operation, number, $0) }
        case .retain(let sequence, let retention): cache.retain(sequence, retention, completion: done)
        }
    }

    /// Searches for the sequence that begins with most of some token ids.
    func answer(_ question: MatchQuestion, number: UInt64) {
        server.search(question) { [weak self] result in
            switch result {
            case .success(let reply): self?.send(.matched(reply.found.map { [$0] } ?? []), number: number)
            case .failure(let error): self?.send(.failure(error), number: number)
            }
        }
    }

    /// How much of sequences is committed here; none of those that are known to be damaged.
    func heldLengths(of sequences: [SequenceID]) -> [HeldLength] {
        sequences.compactMap { server.cache.state(of: $0) }.filter { $0.intactLength >= $0.committedLength }.map {
            HeldLength(sequence: $0.id, length: $0.committedLength.value)
        }
    }

    /// The names and models of sequences.
    func records(of sequences: [SequenceID]) -> [SequenceRecord] {
        sequences.compactMap { server.cache.state(of: $0) }.map {
            SequenceRecord(id: $0.id, name: $0.name, model: $0.model, scope: $0.scope)
        }
    }

    /// A backup begins: everything that was confirmed before is in the store.
    func holdCopy(number: UInt64) {
        do throws(ServiceError) {
            try server.copies.hold(number) { () throws(ServiceError) in try server.cache.copy() }
            send(.copyHeld, number: number)
        } catch {
            var error = error
            error.rank = server.configuration.rank
            send(.failure(error), number: number)
        }
    }

    func carriedOut(
        _ operation: DirectoryOperation, _ number: UInt64, _ result: Result<Void, ServiceError>
    ) {
        switch operation {
        case .truncate(let sequence, _), .close(let sequence), .evict(let sequence):
            server.cursors.forget(sequence)
            server.work.endChange(of: sequence)
        case .fork(let parent, _, _, _): server.endWriting(parent)
        case .putModel, .removeModel, .open, .claim, .retain: break
        }
        switch result {
        case .success:
            switch operation {
            case .close(let sequence), .evict(let sequence):
                server.uses.forget(sequence)
                server.owners.forget(sequence)
            case .open(let record): server.uses.note([record.id])
            case .truncate(let sequence, _), .claim(let sequence, _, _): server.uses.note([sequence])
            case .fork(let parent, let child, _, _):
                server.uses.note([parent, child])
                server.owners.forked(child, from: parent, at: server.now)
            case .putModel, .removeModel, .retain: break
            }
            send(.operationDone, number: number)
            // Whether that was enough: the coordinator asks again when the last rank is done.
            if case .evict = operation { renew() }
        case .failure(var error):
            error.rank = server.configuration.rank
            server.observe(.operationFailed(operation, error))
            send(.failure(error), number: number)
        }
    }
}
