// SPDX-License-Identifier: Apache-2.0

internal import DCPCache
internal import DCPCore
internal import DCPTransport
internal import DCPWire
internal import NIOCore

/// Token ids: reading them back, and finding who begins with some.
extension RankServer {
    func readTokens(_ request: ReadTokens, _ call: Call<ReadTokens>) {
        let byteCount: Int
        do throws(ServiceError) {
            try checkServing(call.epoch)
            guard request.count <= ReadTokens.countMax else {
                throw ServiceError(
                    .invalidRequest,
                    "\(request.count) ids were requested at once, but the limit is \(ReadTokens.countMax); request "
                        + "fewer.")
            }
            byteCount =
                request.count * MemoryLayout<UInt32>.stride
                + (request.wantsAnnotation ? SequenceLimits.annotationByteCountMax : 0)
            try takeReadBytes(byteCount)
        } catch {
            return refuse(call, error)
        }
        let cache = cache
        onComputeThread { () throws(ServiceError) in
            let start = Position(request.start)
            let ids = try cache.tokenIDs(of: request.sequence, start..<start + request.count)
            let annotation = request.wantsAnnotation ? try cache.annotation(of: request.sequence) : nil
            return Message.reply(ReadTokens.Reply(ids: ids, annotation: annotation), to: ReadTokens.self)
        } then: { [self] result in
            let message =
                switch result {
                case .success(let reply): reply
                case .failure(let error): Message.failure(error)
                }
            answer(call.link, call.tag, message) { [weak self] in self?.readBytes.giveBack(byteCount) }
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
        search(request.question) { [self] in answer(call, $0) }
    }

    /// Looks for who begins with some ids, for a client or for the coordinator.
    func search(_ question: MatchQuestion, done: @escaping (Result<MatchTokens.Reply, ServiceError>) -> Void) {
        let cache = cache
        onComputeThread { () throws(ServiceError) in
            let found = try cache.match(
                model: question.model, scope: question.scope, ids: question.ids, excluding: Set(question.excluding))
            return MatchTokens.Reply(found.map { HeldLength(sequence: $0.sequence, length: $0.length.value) })
        } then: { [self] result in
            counters.prefixMatches.note(result)
            // Not of one that was closed meanwhile: nothing would make the log forget it.
            if let found = try? result.get().found, cache.holds(found.sequence) { uses.note([found.sequence]) }
            done(result)
        }
    }

    /// Reads the store on a compute thread, and continues here.
    private func onComputeThread<Value: Sendable>(
        _ body: @escaping @Sendable () throws(ServiceError) -> Value,
        then: @escaping (Result<Value, ServiceError>) -> Void
    ) {
        let bound = NIOLoopBound(then, eventLoop: eventLoop)
        let eventLoop = eventLoop
        pool.submit { _ in
            let result = Result { () throws(ServiceError) in try body() }
            eventLoop.execute { bound.value(result) }
        }
    }
}
