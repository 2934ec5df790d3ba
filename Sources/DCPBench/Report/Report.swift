// SPDX-License-Identifier: Apache-2.0

package import DCPCore

/// A quantity that was measured many times.
public struct Quantity: Encodable, Hashable, Sendable {
    public var unit: String
    public var median: Double
    public var p10: Double
    public var p90: Double
    public var p99: Double
    public var runs: Int

    public init(_ samples: Samples, unit: String) {
        self.unit = unit
        median = samples.median
        p10 = samples.percentile(10)
        p90 = samples.percentile(90)
        p99 = samples.percentile(99)
        runs = samples.count
    }
}

/// The reference of a figure, measured in the same run.
public struct Comparison: Encodable, Hashable, Sendable {
    public enum Kind: String, Encodable, Sendable {
        /// The best possible value of the figure.
        case ceiling
        /// The whole of which the figure is a part.
        case whole
    }

    public var kind: Kind
    public var name: String
    /// How it was measured: `512-bit, prefetch to L2 4 KiB ahead`.
    public var detail: String
    public var value: Quantity
    /// The median over all rounds of the figure divided by this, for durations under a ceiling the other way round: 1 is as
    /// good as can be. By rounds and not of the two medians, since what disturbs a machine for a while meets both.
    public var ratio: Double
}

/// One measured figure beside its ceilings, or what it is a part of.
public struct Figure: Encodable, Hashable, Sendable {
    public var name: String
    public var value: Quantity
    public private(set) var beside: [Comparison] = []
    private let samples: Samples

    private enum CodingKeys: CodingKey { case name, value, beside }

    public init(_ name: String, _ samples: Samples, unit: String) {
        self.name = name
        self.samples = samples
        value = Quantity(samples, unit: unit)
    }

    /// Whether less is better.
    public var isDuration: Bool { ["s", "ms", "us"].contains(value.unit) }

    /// Adds a ceiling, in the figure's unit, measured in the same rounds.
    public func under(_ name: String, _ samples: Samples, detail: String = "") -> Figure {
        let ratio = isDuration ? samples.divided(by: self.samples) : self.samples.divided(by: samples)
        return adding(.ceiling, name, samples, ratio, detail)
    }

    /// Adds what the figure is a part of, in the figure's unit, measured in the same rounds.
    public func of(_ name: String, _ samples: Samples, detail: String = "") -> Figure {
        adding(.whole, name, samples, self.samples.divided(by: samples), detail)
    }

    private func adding(
        _ kind: Comparison.Kind, _ name: String, _ samples: Samples, _ ratio: Samples, _ detail: String
    ) -> Figure {
        var figure = self
        figure.beside.append(
            Comparison(
                kind: kind, name: name, detail: detail, value: Quantity(samples, unit: value.unit),
                ratio: ratio.median))
        return figure
    }
}

/// The parameters of a measurement. Those that do not apply are nil.
public struct Parameters: Encodable, Hashable, Sendable {
    /// `kernels decode`
    public var benchmark: String
    public var shape: String
    /// `bf16`
    public var kvFormat: String
    /// Tokens before the step's.
    public var context: Int?
    /// Tokens of the step or chunk.
    public var count: Int
    public var threads: Int
    /// Whether queries are numbers that bf16 holds, or any Float32: `bf16`, `f32`.
    public var queries: String?
    public var causal: Bool?
    /// How many tokens a query sees; nil for all.
    public var window: Int?
    /// Of which sequences a call is, where it is not one: `16 forks`.
    public var batch: String?
    public var isPeaked: Bool?
    /// The dtype of the rows that steps bring.
    public var rows: String?
    public var durability: String?
    public var ranks: Int?
    /// How steps are sent, where it is not one at a time over Unix sockets: `4 clients, batch 8`.
    public var load: String?

    package init(
        _ benchmark: String, _ shape: AttentionShape, _ format: CacheFormat, context: Int? = nil, count: Int,
        threads: Int
    ) {
        self.benchmark = benchmark
        self.shape = "\(shape)"
        self.kvFormat = format.name
        self.context = context
        self.count = count
        self.threads = threads
    }

    /// `decode 32x8x128 bf16, 131072 tokens, 1 thread`
    public var label: String {
        var text = "\(benchmark) \(shape) \(kvFormat)"
        if let queries, queries == "f32" { text += " f32 queries" }
        if let causal, causal { text += " causal" }
        if let context { text += context == 0 ? ", empty" : ", \(Self.tokens(context))" }
        if let window { text += ", window \(Self.tokens(window))" }
        if let batch { text += ", \(batch)" }
        if isPeaked == true { text += ", peaked" }
        if count > 1 { text += ", \(count) new" }
        if let rows { text += " \(rows) rows" }
        if let durability { text += ", \(durability)" }
        if let load { text += ", \(load)" }
        if let ranks { text += ", \(ranks) ranks x" }
        return text + (ranks == nil ? "," : "") + " \(threads) thread\(threads == 1 ? "" : "s")"
    }

    private static func tokens(_ count: Int) -> String {
        count % 1024 == 0 ? "\(count / 1024)k" : "\(count)"
    }
}

/// The figures of one set of parameters.
public struct Finding: Encodable, Hashable, Sendable {
    public var parameters: Parameters
    public var figures: [Figure]
    /// The duration of one run, if the figures are rates.
    public var time: Quantity?
    /// nil for what computes nothing.
    public var accuracy: Accuracy?

    package init(
        parameters: Parameters, figures: [Figure], time: Quantity? = nil, accuracy: Accuracy? = nil
    ) {
        self.parameters = parameters
        self.figures = figures
        self.time = time
        self.accuracy = accuracy
    }
}

/// The output of `dcp-bench`, as a table or as JSON.
public struct Report: Encodable, Sendable {
    /// The command: `kernels decode`.
    public var benchmark: String
    public var machine: Machine
    public var kernels: MeasuredKernels
    /// The options in force, by their names.
    public var parameters: [String: String]
    public var seed: UInt64
    /// Where stores and clusters were, while they were.
    public var directory: String
    public var results: [Finding] = []
    public var notMeasured: [String]

    public init(
        _ benchmark: String, parameters: [String: String], seed: UInt64, directory: String, notMeasured: [String]
    ) {
        self.benchmark = benchmark
        self.parameters = parameters
        self.seed = seed
        self.directory = directory
        self.notMeasured = notMeasured
        machine = Machine.current
        kernels = MeasuredKernels.current
    }
}
