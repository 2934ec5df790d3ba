// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPRank
internal import DCPTransport
internal import DCPWire
internal import NIOCore

/// Makes the ranks of a simulation break a rule.
///
/// DESIGN: a rank is the daemon's own code and knows nothing of this. What surrounds it is changed instead: the frames on
/// its connections, and the share of the threads that it is given. A rank that obeys every rule and a connection that
/// changes what it says are, for clients and the coordinator, one rank that breaks the rule.
///
/// `@unchecked Sendable`: as all of a world.
final class Sabotage: @unchecked Sendable {
    private let rule: BrokenRule
    private let contextRanks: Int
    /// As the coordinator knows them.
    private var models: [ModelID: ModelRecord] = [:]
    private var firstEpochs: [RankIndex: Epoch] = [:]
    private var peerMessages = 0

    /// The natural logarithm of 2: a sink that is higher by it weighs twice as much.
    private static let logOfTwo: Float = 0.693_147_2

    /// Of the messages between ranks one in so many is lost.
    private static let lossPeriod = 40

    init(_ rule: BrokenRule, of cluster: ClusterShape) {
        self.rule = rule
        contextRanks = cluster.layout.contextRanks
    }

    /// The network as a rank sees it.
    func network(of rank: RankIndex, over network: SimulatedNetwork) -> any Network {
        rule == .turns ? network : TamperedNetwork(network, sabotage: self, rank: rank)
    }

    /// See `PieceQueue.decodeShare`.
    var decodeShare: Int { rule == .turns ? 0 : PieceQueue.decodeShare }

    // MARK: Frames

    /// What a rank receives in the place of a frame; nil for the frame itself.
    func received(_ frame: Frame) -> Frame? {
        guard case .operation(.putModel(let record)) = frame.message else { return nil }
        models[record.id] = record
        guard let description = changed(record.description) else { return nil }
        var frame = frame
        frame.message = .operation(
            .putModel(ModelRecord(id: record.id, name: record.name, description: description)))
        return frame
    }

    /// What a rank sends in the place of a frame; nil for the frame itself.
    func sent(_ frame: Frame, by rank: RankIndex) -> Frame? {
        var frame = frame
        switch frame.message {
        case .register(var registration):
            registration.models = registration.models.map { models[$0.id] ?? $0 }
            frame.message = .register(registration)
        case .reply(let body):
            switch (rule, body.type) {
            case (.epoch, StepRequest.type.reply), (.epoch, Commit.type.reply), (.epoch, CutUncommitted.type.reply):
                let first = firstEpochs[rank] ?? frame.epoch
                firstEpochs[rank] = first
                frame.epoch = first
            case (.match, MatchTokens.type.reply):
                guard let found = (try? body.reply(to: MatchTokens.self))?.found else { return nil }
                let more = HeldLength(sequence: found.sequence, length: found.length + 1)
                frame.message = .reply(MatchTokens.Reply(more), to: MatchTokens.self)
            default: return nil
            }
        default: return nil
        }
        return frame
    }

    /// Whether a frame that a rank sends is lost.
    func loses(_ frame: Frame) -> Bool {
        guard rule == .message else { return false }
        switch frame.message {
        case .query, .partial, .logSumExp, .corrected, .appended: peerMessages += 1
        default: return false
        }
        return peerMessages % Self.lossPeriod == 0
    }

    /// The answer to a request that the rank has taken up and not answered yet; nil where it is left to the rank.
    func answer(to frame: Frame) -> Message? {
        guard case .request(let body) = frame.message else { return nil }
        switch (rule, body.type) {
        case (.commit, Commit.type): return .reply(Done(), to: Commit.self)
        case (.append, StepRequest.type):
            // With queries only the rank knows the outputs.
            guard let request = try? body.request(as: StepRequest.self), request.queryMode == .absent,
                request.commits.isEmpty, let model = models[request.model]?.description
            else { return nil }
            let nothing = StepResult(
                tokens: request.tokens, heads: 0, valueDim: model[Int(frame.tag.layer)].valueDim,
                outputs: ByteBuffer(), lse: request.wantsLSE ? ByteBuffer() : nil)
            return .reply(nothing, to: StepRequest.self)
        default: return nil
        }
    }

    // MARK: Models

    /// A model as the ranks are told it; nil where they are told the truth.
    private func changed(_ model: ModelDescription) -> ModelDescription? {
        do throws(ServiceError) {
            switch rule {
            case .window:
                var layers: [LayerAttention] = []
                for layer in 0..<model.layers { layers.append(try withWindowOfOwnTokens(model[layer])) }
                return try ModelDescription(
                    layers: layers, kvFormat: model.kvFormat, sinks: model.sinks, revision: model.revision)
            case .sink:
                return try ModelDescription(
                    layers: (0..<model.layers).map { model[$0] }, kvFormat: model.kvFormat,
                    sinks: model.sinks.map { $0.map { $0 + Self.logOfTwo } }, revision: model.revision)
            case .commit, .epoch, .append, .match, .turns, .message: return nil
            }
        } catch {
            preconditionFailure("a valid model stays valid: \(error)")
        }
    }

    /// A window of n positions as one of n tokens of each context rank.
    private func withWindowOfOwnTokens(_ layer: LayerAttention) throws(ServiceError) -> LayerAttention {
        guard case .window(let tokens) = layer.visibility else { return layer }
        return try LayerAttention(
            queryHeads: layer.queryHeads, kvHeads: layer.kvHeads, keyDim: layer.keyDim, values: layer.values,
            scale: layer.scale, softcap: layer.softcap, visibility: .window(tokens * contextRanks),
            hasSinks: layer.hasSinks)
    }
}
