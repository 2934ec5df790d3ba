// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPOracle
internal import DCPWire
internal import NIOCore

/// Who a client was before it crashed, when it has not died: it still has its connections, and goes on where it believes
/// its sequences to be, while its successor has resumed them.
///
/// Whatever it asks for after that must be refused. One that is answered has changed, or looked at, another client's tokens.
final class Predecessor {
    private let simulation: Simulation
    private let process: Process
    private let id: ClientID
    private let epoch: Epoch
    private let model: ModelRecord
    private let connections: [RankIndex: ClientConnection]
    /// Where each sequence was, as far as it knows.
    private let sequences: [(sequence: SequenceID, lengths: [Int], claim: Claim)]
    private var nextNumber: UInt64
    private var remaining = 3

    /// - Parameter connections: those to the ranks, which stay open.
    init?(of client: SimulatedClient, connections: [RankIndex: ClientConnection], nextNumber: UInt64) {
        guard let topology = client.topology, let model = client.model else { return nil }
        sequences = client.sequences.compactMap { sequence in
            guard let record = sequence.record, let claim = client.claims[sequence.name] else { return nil }
            return (record.id, sequence.layers.map(\.count), claim)
        }
        guard !sequences.isEmpty, connections.count == client.cluster.ranks else { return nil }
        simulation = client.simulation
        process = client.process
        id = client.id
        epoch = topology.epoch
        self.model = model
        self.connections = connections
        self.nextNumber = nextNumber
    }

    func close() { for rank in connections.keys.sorted() { connections[rank]!.close() } }

    /// The successor has resumed all sequences.
    func goOn() {
        guard remaining > 0 else { return close() }
        remaining -= 1
        let world = simulation.world
        world.after(world.delay(.zero ... .milliseconds(300)), process, "predecessor") { [self] in
            ask()
            goOn()
        }
    }

    private func ask() {
        let world = simulation.world
        let (sequence, lengths, claim) = sequences[world.draw(0...sequences.count - 1)]
        let kind = world.draw(0...2)
        let length = lengths.min()!
        let layer = kind == 0 ? world.draw(0...lengths.count - 1) : 0
        let tag = Tag(client: id, number: nextNumber, layer: UInt32(layer))
        nextNumber += 1
        let cut = SequenceLength(sequence: sequence, length: length, claim: claim)
        for rank in connections.keys.sorted() {
            let message: Message
            switch kind {
            case 0:
                message = .request(step(sequence, claim, layer: layer, position: lengths[layer], on: rank))
            case 1: message = .request(Commit([cut]))
            default: message = .request(Many([CutUncommitted(cut)]))
            }
            let frame = Frame(epoch: epoch, tag: tag, message: message)
            connections[rank]!.request(frame, timeout: simulation.requestTimeout) { [simulation] result in
                guard case .success(let answer) = result, !Self.isRefusal(answer, of: kind) else { return }
                simulation.violate(
                    .overruledClaim,
                    "\(rank) answered a \(message.type) of \(tag) with a \(answer.message.type), after another client had "
                        + "resumed \(sequence)")
            }
        }
        simulation.count("predecessor's request")
    }

    /// A cut is refused item by item, in a reply.
    private static func isRefusal(_ answer: Frame, of kind: Int) -> Bool {
        guard kind == 2, let reply = try? answer.reply(to: Many<CutUncommitted>.self) else { return false }
        return reply.answers.allSatisfy { answer in
            if case .failure = answer { true } else { false }
        }
    }

    /// One token without attention.
    private func step(_ sequence: SequenceID, _ claim: Claim, layer: Int, position: Int, on rank: RankIndex)
        -> StepRequest
    {
        let attention = model.description[layer]
        let heads = attention.kvHeads / simulation.knobs.shape.headGroups
        let (keyDim, valueDim) = (attention.keyDim, attention.ownValueDim)
        let cluster = simulation.knobs.shape
        let owned = cluster.layout.owner(ofPosition: position) == cluster.contextRank(of: rank) ? 1 : 0
        return StepRequest(
            model: model.id, queryMode: .absent, wantsLSE: false,
            timeoutMilliseconds: UInt32(simulation.stepTimeout.nanoseconds / 1_000_000),
            entries: [StepRequest.Entry(sequence: sequence, position: position, count: 1, claim: claim)],
            queryDataType: .float32,
            keyValueDataType: .float32, queryHeads: 0, kvHeads: heads, keyDim: keyDim, valueDim: valueDim,
            keyValueTokens: owned, tensors: ByteBuffer(repeating: 0, count: owned * heads * (keyDim + valueDim) * 4))
    }
}
