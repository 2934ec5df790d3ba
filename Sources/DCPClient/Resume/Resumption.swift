package import DCPCore
package import DCPWire

/// How a client makes the ranks agree on a sequence after a failure, as a value: what they hold comes in, what to ask of
/// them goes out. Driven by `Cluster.resume` and by the simulator's clients.
package struct Resumption {
    package enum Action {
        /// Every rank is to cut its layers to these lengths; then they are looked at again.
        case rewind([Int])
        /// The client goes on from here.
        case settled(SequenceProgress)
        /// The lengths differ again and again: another client appends.
        case unsettled
    }

    private let lengthsMax: [Int]?
    private var rewinds = 0
    /// What a rank takes back that had not heard the verdict yet may make the lengths differ once.
    private static let rewindsMax = 3

    /// - Parameter lengthsMax: per layer, what is kept at most; nil keeps what every rank has.
    package init(atMost lengthsMax: [Int]?) { self.lengthsMax = lengthsMax }

    /// - Parameter progress: what the ranks hold now.
    package mutating func next(_ progress: SequenceProgress) -> Action {
        if rewinds > 0, !progress.isUneven { return .settled(progress) }
        guard rewinds < Self.rewindsMax else { return .unsettled }
        // Once also when the lengths agree: a rank that has not heard the verdict yet may still hold the step.
        rewinds += 1
        return .rewind(
            progress.layerLengths.enumerated().map { layer, length in
                max(min(length, lengthsMax?.dropFirst(layer).first ?? length), progress.committedLength)
            })
    }
}

extension SequenceProgress {
    /// - Parameter statuses: one of each rank.
    package init(_ statuses: [(RankIndex, SequenceStatus)]) {
        let layers = statuses.map(\.1.layerLengths.count).min() ?? 0
        committedLength = statuses.map(\.1.committedLength).min() ?? 0
        layerLengths = (0..<layers).map { layer in statuses.map { $0.1.layerLengths[layer] }.min() ?? 0 }
        localTokens = Dictionary(uniqueKeysWithValues: statuses.map { ($0.0, $0.1.localTokens) })
        isUneven = (0..<layers).contains { layer in Set(statuses.map { $0.1.layerLengths[layer] }).count > 1 }
    }
}
