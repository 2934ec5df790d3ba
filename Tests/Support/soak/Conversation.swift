// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPTestKit
import DCPWire

/// One sequence of a client: a story, how far it has come, and what the cluster has promised about it.
struct Conversation: Sendable {
    var handle: SequenceHandle
    var story: Int
    /// Steps that are acknowledged as committed.
    var committedSteps = 0
    /// Steps whose commit was asked for: the cluster may have more than it has acknowledged.
    var askedSteps = 0
    /// The fewest that were committed since a period of `AcceptedStores` began: an older store that is accepted has these.
    private(set) var leastSteps = 0
    private(set) var period = 0

    init(handle: SequenceHandle, story: Int, committedSteps: Int = 0, period: Int) {
        self.handle = handle
        self.story = story
        self.committedSteps = committedSteps
        self.period = period
        (askedSteps, leastSteps) = (committedSteps, committedSteps)
    }

    /// Before `committedSteps` sinks.
    mutating func note(period now: Int, sinkingTo steps: Int) {
        leastSteps = min(now > period ? committedSteps : leastSteps, steps)
        period = now
    }
}

/// A client that prefills, decodes, forks, truncates and closes, through whatever happens to the cluster, and compares
/// every answer.
struct SoakClient {
    let name: String
    let settings: SoakClientSettings
    var cluster: Cluster
    var random: SeededGenerator
    var outages: Outages
    var conversations: [Conversation] = []
    private var nextName = 0
    /// Left to be found.
    private var kept: [String] = []
    /// How many of the older stores that were accepted it knows of.
    private var acceptedCount = 0

    static let conversationsMax = 4

    var stories: [Story] { settings.stories }
    var tally: Tally { settings.tally }

    init(name: String, settings: SoakClientSettings, seed: UInt64) async throws {
        self.name = name
        self.settings = settings
        cluster = try await settings.connect()
        random = SeededGenerator(seed: seed)
        outages = Outages(allowance: settings.patience)
    }

    /// One operation, chosen at random.
    mutating func act() async throws {
        try await followAcceptance()
        guard let index = conversations.indices.randomElement(using: &random) else { return try await open() }
        let story = stories[conversations[index].story]
        switch Int.random(in: 0..<12, using: &random) {
        case 0 where conversations.count < Self.conversationsMax: try await open()
        case 1 where conversations.count < Self.conversationsMax: try await fork(index)
        case 2: try await truncate(index)
        case 3 where conversations[index].committedSteps == story.steps.count: try await close(index)
        case 4: try await dieAndResume(index)
        case 6 where conversations.count < Self.conversationsMax: try await match()
        case 5: try await beOverruled(index)
        default:
            if conversations[index].committedSteps == story.steps.count { return try await truncate(index) }
            let steps = Int.random(in: 1...12, using: &random)
            let every = Int.random(in: 1...4, using: &random)
            try await append(index, steps: steps, commitEvery: every)
        }
    }

    /// At the end: all that was promised is there, and each sequence still goes on.
    mutating func finish() async throws {
        try await followAcceptance()
        for index in conversations.indices {
            let progress = try await resume(index, after: nil)
            try check(progress, conversations[index])
            try await append(index, steps: 2, commitEvery: 1)
        }
        for sequence in kept { try await closeForGood(sequence) }
    }

    private mutating func closeForGood(_ sequence: String) async throws {
        let cluster = cluster
        try await persistently { () async throws(ServiceError) in
            do throws(ServiceError) {
                try await cluster.closeSequence(sequence)
            } catch {
                // It has made room, or an earlier attempt was recorded.
                guard error.code == .unknownSequence || error.code == .evicted else { throw error }
            }
        }
    }

    // MARK: Operations

    private mutating func open() async throws {
        nextName += 1
        let (cluster, sequence) = (cluster, "\(name)-\(nextName)")
        let (model, shape) = (settings.model, stories[0].shape)
        let handle = try await persistently { () async throws(ServiceError) -> SequenceHandle in
            try await cluster.registerModel(model, shape)
            return try await cluster.openSequence(sequence, model: model)
        }
        conversations.append(
            Conversation(
                handle: handle, story: Int.random(in: stories.indices, using: &random),
                period: settings.accepted.period))
    }

    private mutating func fork(_ index: Int) async throws {
        let conversation = conversations[index]
        // As the story that begins like this one, where there is one and it is far enough; else as the same story.
        var (story, steps) = (conversation.story, Int.random(in: 0...conversation.committedSteps, using: &random))
        let children = stories.indices.filter { child in
            stories[child].parent.map { $0.story == conversation.story && $0.steps <= conversation.committedSteps }
                ?? false
        }
        if let child = children.randomElement(using: &random), let parent = stories[child].parent {
            (story, steps) = (child, parent.steps)
        }
        nextName += 1
        let length = stories[story].position(ofStep: steps)
        let (cluster, parent, child) = (cluster, conversation.handle.record.name, "\(name)-\(nextName)")
        let (handle, progress) = try await persistently {
            () async throws(ServiceError) -> (SequenceHandle, SequenceProgress) in
            // An earlier attempt may have been recorded, and carried out since.
            var handle = try await cluster.existing(child)
            if handle == nil {
                try await cluster.fork(parent, as: child, length: length)
                handle = try await cluster.openSequence(child, model: nil)
            }
            return (handle!, try await cluster.status(of: handle!))
        }
        guard progress.committedLength == length else {
            throw SoakFailure(
                "\(child), forked from \(parent) at \(length), has \(progress.committedLength) committed tokens")
        }
        conversations.append(
            Conversation(
                handle: handle, story: story, committedSteps: steps, period: settings.accepted.period))
        tally.update { $0.forks += 1 }
    }

    /// Opens what is stored of a story, whoever has played it, and goes on from there.
    private mutating func match() async throws {
        let index = Int.random(in: stories.indices, using: &random)
        let story = stories[index]
        let wanted = story.position(ofStep: Int.random(in: 0...story.steps.count, using: &random))
        nextName += 1
        let (cluster, child, model) = (cluster, "\(name)-\(nextName)", settings.model)
        let (handle, length) = try await persistently {
            () async throws(ServiceError) -> (SequenceHandle, Int) in
            // An earlier attempt may have been recorded, and carried out since.
            if let handle = try await cluster.existing(child) {
                return (handle, try await cluster.status(of: handle).committedLength)
            }
            return try await cluster.openSequence(
                matching: Array(story.ids[..<wanted]), as: child, model: model, scope: "")
        }
        guard length <= wanted else {
            throw SoakFailure("\(child) has \(length) tokens of \(wanted) that were looked for")
        }
        let steps = story.steps(until: length)
        conversations.append(
            Conversation(handle: handle, story: index, committedSteps: steps, period: settings.accepted.period))
        tally.update {
            $0.matches += 1
            $0.tokensMatched += length
        }
        // It may end within a step of this story: another client has cut its steps elsewhere.
        if story.position(ofStep: steps) < length { try await truncate(conversations.count - 1, to: steps) }
    }

    private mutating func truncate(_ index: Int) async throws {
        try await truncate(index, to: Int.random(in: 0...conversations[index].committedSteps, using: &random))
    }

    mutating func truncate(_ index: Int, to steps: Int) async throws {
        let conversation = conversations[index]
        let length = stories[conversation.story].position(ofStep: steps)
        // From here on both lengths are right, until it is acknowledged.
        conversations[index].note(period: settings.accepted.period, sinkingTo: steps)
        conversations[index].committedSteps = steps
        let (cluster, handle) = (cluster, conversation.handle)
        try await persistently { () async throws(ServiceError) in
            try await cluster.cut(handle.record.name, to: length)
        }
        conversations[index].askedSteps = steps
        // It may have been carried out by a copy that was made meanwhile, or not.
        conversations[index].note(period: settings.accepted.period, sinkingTo: steps)
        let progress = try await resume(index, after: nil)
        guard progress.committedLength == length, progress.layerLengths.allSatisfy({ $0 == length }) else {
            throw SoakFailure("\(handle.record.name), truncated to \(length), has \(progress)")
        }
        tally.update { $0.truncations += 1 }
    }

    private mutating func close(_ index: Int) async throws {
        let (cluster, sequence) = (cluster, conversations[index].handle.record.name)
        // Some are left to be found.
        let isKept = Bool.random(using: &random)
        conversations.remove(at: index)
        try await persistently { () async throws(ServiceError) in
            do throws(ServiceError) {
                try await cluster.closeSequence(sequence, keep: isKept)
            } catch {
                // An earlier attempt was recorded: it is closed, or is being closed.
                guard error.code == .unknownSequence else { throw error }
            }
        }
        if isKept { kept.append(sequence) }
        tally.update { $0.closings += 1 }
    }

    /// Sends steps and commits, again from where the ranks are after each failure.
    /// - Parameter progress: of a resume just before; else nothing is uncommitted.
    mutating func append(
        _ index: Int, steps count: Int, commitEvery every: Int, from progress: SequenceProgress? = nil
    ) async throws {
        let story = stories[conversations[index].story]
        let first = conversations[index].committedSteps
        let end = min(first + count, story.steps.count)
        guard first < end else { return }
        var lengths =
            progress?.layerLengths
            ?? [Int](repeating: story.position(ofStep: first), count: story.shape.layers)
        var answered = lengths
        while true {
            let failure: ServiceError
            do throws(ServiceError) {
                for step in first..<end {
                    for layer in lengths.indices where lengths[layer] < story.steps[step].upperBound {
                        let bits = AnswerBits(try await send(step, layer: layer, conversations[index]))
                        lengths[layer] = story.steps[step].upperBound
                        answered[layer] = max(answered[layer], lengths[layer])
                        succeeded()
                        compare(bits, step: step, layer: layer, conversations[index])
                    }
                    let isDue = (step - first) % every == every - 1 || step == end - 1
                    if isDue, conversations[index].committedSteps <= step { try await commit(index, steps: step + 1) }
                }
                return
            } catch {
                failure = error
            }
            let progress = try await resume(index, after: failure, answered: answered.min() ?? 0)
            try check(progress, conversations[index])
            lengths = progress.layerLengths
        }
    }

    func send(
        _ step: Int, layer: Int, _ conversation: Conversation
    ) async throws(ServiceError) -> AttentionOutput {
        let story = stories[conversation.story]
        let rows = story.rows(step, layer: layer)
        let range = story.steps[step]
        return try await cluster.step(
            layer: layer, [conversation.handle.entry(position: range.lowerBound, count: range.count)],
            model: conversation.handle.model, queries: rows.queries, keys: rows.keys, values: rows.values)
    }

    private mutating func commit(_ index: Int, steps: Int) async throws(ServiceError) {
        let conversation = conversations[index]
        conversations[index].askedSteps = max(conversation.askedSteps, steps)
        let length = stories[conversation.story].position(ofStep: steps)
        try await cluster.commit([Self.part(conversation, stories[conversation.story], length)])
        conversations[index].committedSteps = steps
        succeeded()
        tally.update { $0.commits += 1 }
    }

    /// All ids each time: a repeat of what is stored changes nothing.
    static func part(_ conversation: Conversation, _ story: Story, _ length: Int) -> SequenceCommit {
        SequenceCommit(
            sequence: conversation.handle.record.id, length: length,
            tokens: TokenIDs(start: 0, ids: Array(story.ids[..<length])))
    }

    // MARK: Outages

    mutating func persistently<Value: Sendable>(
        _ body: @Sendable () async throws(ServiceError) -> Value
    ) async throws -> Value {
        let before = outages.count
        let began = Cluster.now
        let value = try await cluster.persistently(&outages, body)
        if outages.count > before { note(Cluster.now - began) }
        return value
    }

    mutating func resume(
        _ index: Int, after failure: ServiceError?, answered: Int = 0
    ) async throws -> SequenceProgress {
        let (cluster, handle) = (cluster, conversations[index].handle)
        guard let failure else {
            return try await persistently { () async throws(ServiceError) in try await cluster.resume(handle) }
        }
        let name = "\(failure.code)"
        tally.update { $0.errors[name, default: 0] += 1 }
        return try await cluster.resume(handle, after: failure, answered: answered, &outages)
    }

    private mutating func succeeded() {
        if let outage = outages.succeeded(at: Cluster.now) { note(outage.duration) }
    }

    private func note(_ outage: Duration) {
        let seconds = outage / .seconds(1)
        tally.update {
            $0.resumes += 1
            $0.longestOutageSeconds = max($0.longestOutageSeconds, seconds)
        }
    }

    // MARK: Checks

    /// After an older store was accepted: each sequence is cut to what that held, and to nothing less. It holds what was
    /// acknowledged before the copy was made, and not cut since.
    private mutating func followAcceptance() async throws {
        let accepted = settings.accepted.last
        guard accepted.count > acceptedCount else { return }
        acceptedCount = accepted.count
        for index in conversations.indices {
            let progress = try await resume(index, after: nil)
            conversations[index].note(period: accepted.period, sinkingTo: conversations[index].committedSteps)
            let (conversation, story) = (conversations[index], stories[conversations[index].story])
            let held = accepted.held[conversation.handle.record.id] ?? 0
            let committed = story.position(ofStep: conversation.committedSteps)
            let least = min(story.position(ofStep: conversation.leastSteps), held)
            let steps = (0...conversation.committedSteps).first { story.position(ofStep: $0) == progress.length }
            guard progress.committedLength == progress.length, let steps,
                (least...min(committed, held)).contains(progress.length)
            else {
                throw SoakFailure(
                    "\(conversation.handle.record.name) had \(committed) committed tokens, at least "
                        + "\(story.position(ofStep: conversation.leastSteps)) since a copy was made that held \(held); when that "
                        + "was accepted it has \(progress)")
            }
            conversations[index].note(period: accepted.period, sinkingTo: steps)
            (conversations[index].committedSteps, conversations[index].askedSteps) = (steps, steps)
            tally.update { $0.tokensCut += committed - progress.length }
        }
    }

    func compare(_ bits: AnswerBits, step: Int, layer: Int, _ conversation: Conversation) {
        guard bits == settings.expected.answers[conversation.story][step][layer] else {
            tally.fail(
                "\(conversation.handle.record.name): step \(step) of story \(conversation.story), layer \(layer), has other "
                    + "bits than undisturbed")
            return
        }
        tally.update { $0.answersCompared += 1 }
    }

    /// Between what was acknowledged and what was asked for, and where a step ends.
    func check(_ progress: SequenceProgress, _ conversation: Conversation) throws {
        let story = stories[conversation.story]
        let allowed = (conversation.committedSteps...conversation.askedSteps).map { story.position(ofStep: $0) }
        guard allowed.contains(progress.committedLength) else {
            throw SoakFailure(
                "\(conversation.handle.record.name) has \(progress.committedLength) committed tokens, acknowledged were "
                    + "\(allowed.first ?? 0), asked for at most \(allowed.last ?? 0)")
        }
        guard progress.layerLengths.allSatisfy({ $0 == progress.length && $0 >= progress.committedLength }) else {
            throw SoakFailure(
                "\(conversation.handle.record.name) has layers that end apart, or before what is committed: \(progress)"
            )
        }
        tally.update { $0.commitsChecked += 1 }
    }
}

extension Cluster {
    /// A sequence if there is one of that name.
    fileprivate func existing(_ name: String) async throws(ServiceError) -> SequenceHandle? {
        do throws(ServiceError) {
            return try await openSequence(name, model: nil, create: false)
        } catch {
            guard error.code == .unknownSequence else { throw error }
            return nil
        }
    }
}
