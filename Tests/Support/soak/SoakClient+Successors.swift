// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPTestKit
import DCPWire

/// Clients that end in the middle, and clients that others overrule.
extension SoakClient {
    // MARK: Interrupted

    /// Where a client ends.
    private enum Interruption: String, CaseIterable {
        case inStep = "in a step"
        case betweenLayers = "between the layers of a token"
        case beforeCommit = "before a commit"
        case inCommit = "in a commit"
    }

    /// The client ends, its connections with it, and another goes on with the story.
    mutating func dieAndResume(_ index: Int) async throws {
        let interruption = Interruption.allCases.randomElement(using: &random)!
        let keeps = Bool.random(using: &random)
        let step = conversations[index].committedSteps
        let story = stories[conversations[index].story]
        guard step < story.steps.count else { return }
        let end = try await work(index, step: step, until: interruption)
        await cluster.close()
        // Its answer, if one comes, is nobody's. What it opened again is closed, too.
        await end.request?.value
        await cluster.close()
        (cluster, outages) = (try await settings.connect(), Outages(allowance: settings.patience))
        let handle = conversations[index].handle
        let committed = story.position(ofStep: step)
        let steps = Int.random(in: 1...4, using: &random)
        tally.update { $0.interruptedClients[interruption.rawValue, default: 0] += 1 }
        do {
            let progress = try await persistently { [cluster] () async throws(ServiceError) in
                try await cluster.resume(handle, atMost: keeps ? nil : committed)
            }
            try check(progress, conversations[index])
            try await append(index, steps: steps, commitEvery: 1, from: progress)
        } catch let error as ServiceError where error.code == .claimed && !end.isAnswered {
            // The request that it ended in was its first of this sequence, or its first after an outage, and claimed it.
            // Connections are not in order with each other: the claim of the one that died may come after that of the one
            // that goes on.
            try await takeBack(index, steps: steps)
        }
    }

    /// How a client ended.
    private struct End {
        /// The request that it ends in.
        var request: Task<Void, Never>?
        /// Whether all that it has asked for was answered.
        var isAnswered = false
    }

    /// Does the part of a token's work that comes before the end. An outage lets it end the sooner.
    private mutating func work(_ index: Int, step: Int, until interruption: Interruption) async throws -> End {
        let client = self
        let conversation = conversations[index]
        let layers = stories[conversation.story].shape.layers
        let isWhole = interruption == .beforeCommit || interruption == .inCommit
        let some = interruption == .inStep ? 0..<layers : 1..<layers
        let answered = isWhole ? layers : Int.random(in: some, using: &random)
        do throws(ServiceError) {
            for layer in 0..<answered {
                let bits = AnswerBits(try await send(step, layer: layer, conversation))
                compare(bits, step: step, layer: layer, conversation)
            }
        } catch {
            guard error.isRetryable else { throw error }
            return End()
        }
        switch interruption {
        case .betweenLayers, .beforeCommit: return End(isAnswered: true)
        case .inStep: return End(request: Task { _ = try? await client.send(step, layer: answered, conversation) })
        case .inCommit:
            conversations[index].askedSteps = max(conversation.askedSteps, step + 1)
            let length = stories[conversation.story].position(ofStep: step + 1)
            let committed = Self.part(conversation, stories[conversation.story], length)
            return End(request: Task { try? await client.cluster.commit([committed]) })
        }
    }

    // MARK: Overruled

    /// What a client asks for that was overruled.
    private enum LateRequest: String, CaseIterable {
        case step, commit, truncation, fork, closing
    }

    /// Another client takes the sequence over and goes on with other tokens. This one is told `claimed`, and nothing of what it
    /// asks for comes over the other's.
    mutating func beOverruled(_ index: Int) async throws {
        let request = LateRequest.allCases.randomElement(using: &random)!
        let old = conversations[index]
        let others = stories.indices.filter { $0 != old.story }
        let story = others.randomElement(using: &random)!
        let sharedSteps = min(Story.sharedSteps(old.story, story, in: stories), old.committedSteps)
        let steps = Int.random(in: 0...sharedSteps, using: &random)
        guard steps < stories[story].steps.count, old.committedSteps < stories[old.story].steps.count else { return }
        // A token that it has not committed when the other comes.
        if let failure = await self.failure(of: .step, old) {
            let answered = stories[old.story].position(ofStep: old.committedSteps)
            try check(try await resume(index, after: failure, answered: answered), old)
        }
        var rival = try await SoakClient(name: "\(name)-rival", settings: settings, seed: random.next())
        rival.conversations = [old]
        try await rival.takeOver(as: story, at: steps)
        conversations[index] = rival.conversations[0]
        await rival.cluster.close()
        let refusal = await refusal(of: request, old)
        guard refusal?.code == .claimed else {
            throw SoakFailure(
                "\(old.handle.record.name): a \(request.rawValue) of the client that was overruled ended with "
                    + "\(refusal.map { "\($0)" } ?? "success"), not with `claimed`")
        }
        tally.update { $0.overruledClients[request.rawValue, default: 0] += 1 }
        // It may take the sequence back by asking for it: all of the other's is there, and nothing of its own.
        try await takeBack(index, steps: 1)
    }

    /// Takes a sequence from whoever has it, and goes on.
    private mutating func takeBack(_ index: Int, steps: Int) async throws {
        let progress = try await resume(index, after: nil)
        try check(progress, conversations[index])
        try await append(index, steps: steps, commitEvery: 1, from: progress)
    }

    private mutating func takeOver(as story: Int, at steps: Int) async throws {
        let progress = try await resume(0, after: nil)
        try check(progress, conversations[0])
        try await truncate(0, to: steps)
        conversations[0].story = story
        try await append(0, steps: Int.random(in: 1...6, using: &random), commitEvery: 1)
    }

    /// What a request ends with that may meet an outage; after one the client goes on as any does.
    /// - Returns: nil for success, which also is that of going on.
    private func refusal(of request: LateRequest, _ old: Conversation) async -> ServiceError? {
        guard let failure = await failure(of: request, old) else { return nil }
        guard failure.isRetryable else { return failure }
        var outages = Outages(allowance: settings.patience)
        let answered = stories[old.story].position(ofStep: old.committedSteps)
        do throws(ServiceError) {
            _ = try await cluster.resume(old.handle, after: failure, answered: answered, &outages)
            return nil
        } catch {
            return error
        }
    }

    private func failure(of request: LateRequest, _ old: Conversation) async -> ServiceError? {
        let (story, name) = (stories[old.story], old.handle.record.name)
        let length = story.position(ofStep: old.committedSteps)
        do throws(ServiceError) {
            switch request {
            case .step: _ = try await send(old.committedSteps, layer: 0, old)
            case .commit:
                let next = story.position(ofStep: old.committedSteps + 1)
                try await cluster.commit([SequenceLength(sequence: old.handle.record.id, length: next)])
            case .truncation: try await cluster.cut(name, to: length)
            case .fork: try await cluster.fork(name, as: "\(name)-late", length: length)
            case .closing: try await cluster.closeSequence(name)
            }
            return nil
        } catch {
            return error
        }
    }
}
