// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPOracle
internal import DCPWire
internal import NIOCore

/// Steps with numbers that attention cannot be computed over: every rank must refuse them before it appends anything.
extension SimulatedClient {
    func stepBeyondLimits() {
        doing = "sending a step with numbers beyond the limits"
        let sequence = sequences[world.draw(0...sequences.count - 1)]
        let layer = world.draw(0...simulation.knobs.model.layers - 1)
        let position = sequence.layers[layer].count
        let modes: [StepRequest.QueryMode] = [.gather, .replicate, .absent]
        let mode = modes[world.draw(0...2)]
        let step = SentStep(
            [(sequence, world.draw(1...24))], claims: claims, layer: layer, tag: takeTag(layer: layer), model: model!,
            cluster: cluster, mode: mode, timeout: simulation.stepTimeout, random: &world.random)
        // The step is not recorded in the reference: a rank that appends it has more than was sent.
        sequence.cut(layer, to: position)
        // A rank without query heads receives no queries, and no rank receives values that its keys contain.
        let tensors: [InputLimits.Tensor] =
            [.key] + (mode == .replicate ? [.query] : []) + (step.attention.ownValueDim > 0 ? [.value] : [])
        let tensor = tensors[world.draw(0...tensors.count - 1)]
        simulation.count("steps beyond the limits")
        askRanks(
            step.requests(beyondLimitsIn: tensor, mode, random: &world.random), tag: step.tag,
            timeout: simulation.stepTimeout + .seconds(2)
        ) { [self] rank, frame, _ in
            simulation.violate(.wrongAnswer, "\(name): \(rank) answered \(frame.tag), with numbers beyond its limits")
        } done: { [self] result in
            switch result {
            case .success: break
            // Others may still be at it: after any error a client resumes. Nothing is left of it then.
            case .failure(let error) where error.code == .invalidRequest: recover(after: nil)
            case .failure(let error): failed(error)
            }
        }
    }
}

extension SentStep {
    /// The same step with a number in each head of a tensor, in one of its tokens, that is beyond the limit: without queries
    /// one rank of a group alone is sent that token.
    func requests(
        beyondLimitsIn tensor: InputLimits.Tensor, _ mode: StepRequest.QueryMode, random: inout SeededGenerator
    ) -> [RankIndex: StepRequest] {
        let limit = limits.magnitudeMax(of: tensor)
        let number = [limit.nextUp, -2 * limit, .infinity, .nan].randomElement(using: &random)!
        let place = Double.random(in: 0..<1, using: &random)
        let ranks = requests.keys.sorted()
        let owner = ranks.filter { requests[$0]!.keyValueTokens > 0 }.randomElement(using: &random)!
        var spoilt = requests
        for rank in ranks where mode != .absent || contextRank(of: rank) == contextRank(of: owner) {
            let request = requests[rank]!
            let (queries, keys) = (request.queries.byteCount, request.keys.byteCount)
            let (bytes, heads) =
                switch tensor {
                case .query: (0..<queries, request.queryHeads)
                case .key: (queries..<queries + keys, request.kvHeads)
                case .value: (queries + keys..<request.tensors.readableBytes, request.kvHeads)
                }
            Self.spoil(&spoilt[rank]!.tensors, bytes, heads: heads, place, with: number)
        }
        return spoilt
    }

    private static func spoil(
        _ tensors: inout ByteBuffer, _ bytes: Range<Int>, heads: Int, _ place: Double, with number: Float
    ) {
        let perHead = bytes.count / 4 / heads
        for head in 0..<heads {
            let index = head * perHead + Int(place * Double(perHead))
            tensors.setInteger(
                number.bitPattern, at: tensors.readerIndex + bytes.lowerBound + index * 4, endianness: .little)
        }
    }
}
