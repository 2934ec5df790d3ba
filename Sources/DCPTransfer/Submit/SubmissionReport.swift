// SPDX-License-Identifier: Apache-2.0

public import DCPCore
public import DCPWire

/// What a submission did.
public struct SubmissionReport: Sendable {
    public struct Layer: Sendable {
        public let layer: Int
        /// The largest absolute differences from the expected file; nil without one.
        public internal(set) var outputErrorMax: Float?
        public internal(set) var lseErrorMax: Float?
    }

    /// An outage that the submission got over.
    public struct Resume: Sendable {
        /// The failure that began it.
        public let cause: ServiceError
        /// From that failure to the next step or commit that succeeded.
        public let outage: Duration
        /// The durable length at its end: the submission continued from there, or from a later length that ranks still
        /// had.
        public let committedLength: Int
    }

    public internal(set) var model: String
    public internal(set) var sequence: String
    public internal(set) var tokens: Int
    public internal(set) var prefillTokens: Int
    /// Tokens of the file that were stored before, and compared with it.
    public internal(set) var keptTokens = 0
    public internal(set) var committedLength: Int
    public internal(set) var layers: [Layer]
    /// Layers of the model that the file has not, without which nothing of it is committed.
    public internal(set) var missingLayers: [Int] = []
    /// How long each step took, from sending it to the last rank's answer.
    public internal(set) var prefillSteps: [Duration] = []
    public internal(set) var decodeSteps: [Duration] = []
    public internal(set) var commits: [Duration] = []
    public internal(set) var resumes: [Resume] = []
    /// Tokens, over all layers, that were sent again though their answers had come: a rank had lost them uncommitted.
    public internal(set) var resentTokens = 0
    /// Each rank's counters after the last commit, and how many of the sequence's tokens it holds.
    public internal(set) var ranks: [(status: RankStatus, tokens: Int)] = []
    /// Why `ranks` is empty: the cluster became unavailable after everything was committed and written.
    public internal(set) var ranksFailure: ServiceError?

    /// The value at a fraction of the sorted durations; nil when there are none.
    public static func quantile(_ fraction: Double, of durations: [Duration]) -> Duration? {
        guard !durations.isEmpty else { return nil }
        let sorted = durations.sorted()
        return sorted[min(sorted.count - 1, Int(fraction * Double(sorted.count)))]
    }

    public var outputErrorMax: Float? { layers.compactMap(\.outputErrorMax).max() }
    public var lseErrorMax: Float? { layers.compactMap(\.lseErrorMax).max() }
}
