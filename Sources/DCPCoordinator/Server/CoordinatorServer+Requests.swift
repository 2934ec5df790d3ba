internal import DCPCore
internal import DCPTransport
internal import DCPWire

/// What clients ask of the coordinator.
extension CoordinatorServer {
    static let requests = {
        var table = RequestTable<CoordinatorServer>()
        table.on(GetTopology.self) { $0.tellTopology($1, $2) }
        table.on(GetHostReport.self) { $0.reportHost($2) }
        table.on(ListStores.self) { $0.answer($2, $0.machine.recordedStores) }
        table.on(GiveUpStore.self) { $0.giveUp($1, $2) }
        table.on(ListModels.self) { $0.answer($2, $0.machine.state.sortedModels) }
        table.on(ListSequences.self) { $0.answer($2, $0.machine.sequenceList) }
        table.on(Many<RegisterModel>.self) { $0.carryOut($1, $2) }
        table.on(Many<RemoveModel>.self) { $0.carryOut($1, $2) }
        table.on(Many<OpenSequence>.self) { $0.carryOut($1, $2) }
        table.on(Many<ClaimSequence>.self) { $0.carryOut($1, $2) }
        table.on(Many<ForkSequence>.self) { $0.carryOut($1, $2) }
        table.on(Many<TruncateSequence>.self) { $0.carryOut($1, $2) }
        table.on(Many<CloseSequence>.self) { $0.carryOut($1, $2) }
        table.on(Many<RetainSequence>.self) { $0.carryOut($1, $2) }
        table.on(Many<OpenMatching>.self) { $0.carryOut($1, $2) }
        table.on(Many<BeginCopy>.self) { $0.carryOut($1, $2) }
        table.on(ReadCopy.self) { $0.readCopy($1, $2) }
        table.on(EndCopy.self) { server, request, call in
            server.copies.end(request.number)
            server.answer(call, Done())
        }
        return table
    }()

    /// The longest a client may wait for the cluster to be ready, whatever it asks for.
    public static let waitMax = Duration.seconds(600)

    private func tellTopology(_ request: GetTopology, _ call: Call<GetTopology>) {
        guard let id = id(of: call.link) else { return }
        let wait = min(.milliseconds(Int64(request.waitMilliseconds)), Self.waitMax)
        perform(machine.topologyRequest(id, call.tag, wait: wait, now: now))
    }

    private func giveUp(_ request: GiveUpStore, _ call: Call<GiveUpStore>) {
        do throws(ServiceError) {
            try machine.giveUp(request.loss, of: request.rank)
            perform([.report(.gaveUp(request.rank, request.loss, by: call.link?.caller.identity ?? ""))])
            answer(call, Done())
        } catch {
            answer(call, .failure(error))
        }
    }

    private func reportHost(_ call: Call<GetHostReport>) {
        hostReporter.report { [weak self] result in
            switch result {
            case .success(let report): self?.answer(call, report)
            case .failure(let error): self?.answer(call, .failure(error))
            }
        }
    }

    private func readCopy(_ request: ReadCopy, _ call: Call<ReadCopy>) {
        copies.read(request) { [weak self] result in
            switch result {
            case .success(let pages): self?.answer(call, pages)
            case .failure(let error): self?.answer(call, .failure(error))
            }
        }
    }

    private func carryOut<Item: DirectoryItem>(_ request: Many<Item>, _ call: Call<Many<Item>>) {
        guard let id = id(of: call.link), let caller = call.link?.caller else { return }
        perform(machine.requested(request, link: id, tag: call.tag, from: caller, now: now))
    }

    private func answer<R: Request>(_ call: Call<R>, _ reply: R.Reply) { answer(call, .reply(reply, to: R.self)) }

    /// In the order of the machine's answers.
    private func answer<R: Request>(_ call: Call<R>, _ message: Message) {
        guard let id = id(of: call.link) else { return }
        perform([.answer(message, call.tag, to: id)])
    }
}
