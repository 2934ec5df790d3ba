// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPTransport
internal import DCPWire

/// Clients' requests to the coordinator.
extension CoordinatorServer {
    static let requests = {
        var table = RequestTable<CoordinatorServer>()
        table.on(GetTopology.self) { $0.tellTopology($1, $2) }
        table.on(GetHostReport.self) { server, _, call in
            server.hostReporter.report { [weak server] in server?.answer(call, $0) }
        }
        table.on(ListStores.self) { $0.answer($2, $0.machine.recordedStores) }
        table.on(GiveUpStore.self) { $0.giveUp($1, $2) }
        table.on(ListModels.self) { $0.answer($2, $0.machine.state.sortedModels) }
        table.on(ListSequences.self) { $0.answer($2, $0.machine.page($1)) }
        table.on(Many<RegisterModel>.self) { $0.carryOut($1, $2) }
        table.on(Many<RemoveModel>.self) { $0.carryOut($1, $2) }
        table.on(Many<OpenSequence>.self) { $0.carryOut($1, $2) }
        table.on(Many<OpenCanary>.self) { $0.carryOut($1, $2) }
        table.on(Many<ClaimSequence>.self) { $0.carryOut($1, $2) }
        table.on(Many<ForkSequence>.self) { $0.carryOut($1, $2) }
        table.on(Many<TruncateSequence>.self) { $0.carryOut($1, $2) }
        table.on(Many<CloseSequence>.self) { $0.carryOut($1, $2) }
        table.on(Many<RetainSequence>.self) { $0.carryOut($1, $2) }
        table.on(Many<OpenMatching>.self) { $0.carryOut($1, $2) }
        table.on(Many<BeginCopy>.self) { $0.carryOut($1, $2) }
        table.on(ReadCopy.self) { server, request, call in
            server.copies.read(request) { [weak server] in server?.answer(call, $0) }
        }
        table.on(EndCopy.self) { server, request, call in
            server.copies.end(request.number)
            server.answer(call, Done())
        }
        return table
    }()

    private func tellTopology(_ request: GetTopology, _ call: Call<GetTopology>) {
        guard let id = id(of: call.link) else { return }
        let wait = min(.milliseconds(Int64(request.waitMilliseconds)), GetTopology.waitMax)
        perform(machine.topologyRequest(id, call.tag, wait: wait, now: now))
    }

    private func giveUp(_ request: GiveUpStore, _ call: Call<GiveUpStore>) {
        let result = Result { () throws(ServiceError) in
            try machine.giveUp(request.loss, of: request.rank)
            perform([.report(.gaveUp(request.rank, request.loss, by: call.link?.caller.identity ?? ""))])
            return Done()
        }
        answer(call, result)
    }

    private func carryOut<Item: DirectoryItem>(_ request: Many<Item>, _ call: Call<Many<Item>>) {
        guard let id = id(of: call.link), let caller = call.link?.caller else { return }
        perform(machine.requested(request, link: id, tag: call.tag, from: caller, now: now))
    }

    private func answer<R: Request>(_ call: Call<R>, _ reply: R.Reply) { answer(call, .reply(reply, to: R.self)) }

    private func answer<R: Request>(_ call: Call<R>, _ result: Result<R.Reply, ServiceError>) {
        switch result {
        case .success(let reply): answer(call, reply)
        case .failure(let error): answer(call, .failure(error))
        }
    }

    /// In the order of the machine's answers.
    private func answer<R: Request>(_ call: Call<R>, _ message: Message) {
        guard let id = id(of: call.link) else { return }
        perform([.answer(message, call.tag, to: id)])
    }
}
