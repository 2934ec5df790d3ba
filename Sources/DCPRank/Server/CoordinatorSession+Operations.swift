internal import DCPCache
internal import DCPCore
internal import DCPWire
internal import NIOCore

/// What the coordinator has recorded and every rank carries out.
extension CoordinatorSession {
    func carryOut(_ operation: DirectoryOperation, number: UInt64) {
        let bound = NIOLoopBound(self, eventLoop: server.eventLoop)
        let eventLoop = server.eventLoop
        let done: @Sendable (Result<Void, ServiceError>) -> Void = { result in
            eventLoop.execute { bound.value.carriedOut(operation, number, result) }
        }
        let changed = ServiceError(.stepAborted, "The sequence was changed while the step was in flight.")
        let cache = server.cache
        switch operation {
        case .putModel(let record):
            cache.putModel(id: record.id, name: record.name, description: record.description, completion: done)
        case .removeModel(let model):
            cache.removeModel(model, completion: done)
        case .open(let sequence, let model, _):
            cache.openSequence(id: sequence, model: model, completion: done)
        case .fork(let parent, let child, let length):
            cache.fork(parent: parent, child: child, length: length, completion: done)
        case .truncate(let sequence, let length):
            server.changing.insert(sequence)
            server.abortSteps(on: sequence, changed)
            server.whenQuiet(sequence) { cache.truncate(sequence, length: length, completion: done) }
        case .close(let sequence), .evict(let sequence):
            if case .evict = operation { server.evicted.insert(sequence) }
            server.changing.insert(sequence)
            server.abortSteps(on: sequence, changed)
            server.whenQuiet(sequence) { cache.close(sequence, completion: done) }
        case .claim(let sequence, let claim):
            server.take(over: sequence, claim) { [weak self] in self?.carriedOut(operation, number, $0) }
        }
    }

    func carriedOut(
        _ operation: DirectoryOperation, _ number: UInt64, _ result: Result<Void, ServiceError>
    ) {
        switch operation {
        case .truncate(let sequence, _), .close(let sequence), .evict(let sequence):
            server.cursors.forget(sequence)
            server.changing.remove(sequence)
        case .putModel, .removeModel, .open, .fork, .claim: break
        }
        switch result {
        case .success:
            switch operation {
            case .close(let sequence), .evict(let sequence):
                server.uses.forget(sequence)
                server.owners.forget(sequence)
            case .open(let sequence, _, _), .truncate(let sequence, _), .claim(let sequence, _):
                server.uses.note([sequence])
            case .fork(let parent, let child, _): server.uses.note([parent, child])
            case .putModel, .removeModel: break
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
