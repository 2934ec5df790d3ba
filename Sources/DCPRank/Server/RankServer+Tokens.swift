internal import DCPCache
internal import DCPCore
internal import DCPTransport
internal import DCPWire
internal import NIOCore

/// Token ids: reading them back, and finding who begins with some.
extension RankServer {
    func readTokens(_ request: ReadTokens, _ call: Call<ReadTokens>) {
        do throws(ServiceError) {
            try checkServing(call.epoch)
            guard request.count <= ReadTokens.countMax else {
                throw ServiceError(
                    .invalidRequest,
                    "\(request.count) ids are asked for at once, the limit is \(ReadTokens.countMax); ask for fewer.")
            }
        } catch {
            return refuse(call, error)
        }
        let cache = cache
        answer(call) { () throws(ServiceError) in
            let ids = try cache.tokenIDs(of: request.sequence, request.start..<request.start + request.count)
            let annotation = request.wantsAnnotation ? try cache.annotation(of: request.sequence) : nil
            return ReadTokens.Reply(ids: ids, annotation: annotation)
        }
    }

    /// A match is a use: what is found is not the next to be evicted.
    func match(_ request: MatchTokens, _ call: Call<MatchTokens>) {
        do throws(ServiceError) {
            try checkServing(call.epoch)
            let id = request.question.model
            guard let model = cache.model(id) else {
                throw ServiceError(.unknownModel, "\(id) is not registered; register it first.")
            }
            try ModelRecord(id: id, name: model.name, description: model.description).check(revision: request.revision)
        } catch {
            counters.prefixMatches.note(.failure(error))
            return refuse(call, error)
        }
        let cache = cache
        let excess = configuration.broken == .match ? 1 : 0
        answer(call) { () throws(ServiceError) in
            let question = request.question
            let found = try cache.match(
                model: question.model, scope: question.scope, ids: question.ids, excluding: Set(question.excluding))
            return MatchTokens.Reply(found.map { HeldLength(sequence: $0.sequence, length: $0.length + excess) })
        } then: { server, result in
            server.counters.prefixMatches.note(result)
            if let found = try? result.get().found { server.uses.note([found.sequence]) }
        }
    }

    /// Reads the store on a compute thread, then answers.
    private func answer<R: Request>(
        _ call: Call<R>, _ body: @escaping @Sendable () throws(ServiceError) -> R.Reply,
        then: @escaping @Sendable (RankServer, Result<R.Reply, ServiceError>) -> Void = { _, _ in }
    ) {
        let bound = NIOLoopBound((server: self, call: call), eventLoop: eventLoop)
        let eventLoop = eventLoop
        pool.submit { _ in
            let result = Result { () throws(ServiceError) in try body() }
            eventLoop.execute {
                let (server, call) = bound.value
                then(server, result)
                server.answer(call, result)
            }
        }
    }
}
