// SPDX-License-Identifier: Apache-2.0

/// Metrics and their values as text, in Prometheus' exposition format 0.0.4.
///
/// https://prometheus.io/docs/instrumenting/exposition_formats: "All lines for a given metric must be provided as one single
/// group"; so each metric is added once, with all its samples.
public struct Exposition: Sendable {
    public static let contentType = "text/plain; version=0.0.4; charset=utf-8"

    public typealias Labels = [(name: String, value: String)]

    /// On every sample, before its own labels: who speaks.
    private let constant: Labels
    private var written: Set<String> = []
    public private(set) var text = ""

    public init(labels: Labels = []) { constant = labels }

    public func contains(_ metric: Metric) -> Bool { written.contains(metric.name) }

    /// A metric with one value.
    public mutating func add(_ metric: Metric, _ value: Double) { add(metric, [([], value)]) }

    public mutating func add(_ metric: Metric, _ value: some BinaryInteger) { add(metric, Double(value)) }

    /// A metric with a value for each of several labels' values; none gives the description alone.
    public mutating func add(_ metric: Metric, _ samples: [(labels: [String], value: Double)]) {
        precondition(metric.kind != .histogram)
        begin(metric)
        for (values, value) in samples {
            text += metric.name + block(labels(of: metric, values)) + " " + Self.number(value) + "\n"
        }
    }

    public mutating func add(_ metric: Metric, _ causes: CauseCounts) {
        add(metric, causes.labelled.map { ([$0.cause], Double($0.count)) })
    }

    public mutating func add(_ metric: Metric, _ histogram: Histogram) { add(metric, [([], histogram)]) }

    public mutating func add(_ metric: Metric, _ samples: [(labels: [String], histogram: Histogram)]) {
        precondition(metric.kind == .histogram)
        begin(metric)
        for (values, histogram) in samples {
            let own = labels(of: metric, values)
            let unit = Double(histogram.buckets.ticksPerUnit)
            var cumulative: UInt64 = 0
            for (index, count) in histogram.counts.enumerated() {
                cumulative += count
                let bounds = histogram.buckets.bounds
                let bound = index < bounds.count ? Self.number(Double(bounds[index]) / unit) : "+Inf"
                text += "\(metric.name)_bucket\(block(own + [("le", bound)])) \(cumulative)\n"
            }
            text += "\(metric.name)_sum\(block(own)) \(Self.number(Double(histogram.sum) / unit))\n"
            text += "\(metric.name)_count\(block(own)) \(cumulative)\n"
        }
    }

    private mutating func begin(_ metric: Metric) {
        precondition(written.insert(metric.name).inserted, "\(metric.name) is added only once")
        text += "# HELP \(metric.name) \(Self.escaped(metric.help))\n# TYPE \(metric.name) \(metric.kind.rawValue)\n"
    }

    private func labels(of metric: Metric, _ values: [String]) -> Labels {
        precondition(values.count == metric.labels.count, "\(metric.name) has the labels \(metric.labels)")
        return constant + zip(metric.labels, values).map { ($0, $1) }
    }

    private func block(_ labels: Labels) -> String {
        guard !labels.isEmpty else { return "" }
        let pairs = labels.map { "\($0.name)=\"\(Self.escaped($0.value).replacing("\"", with: "\\\""))\"" }
        return "{\(pairs.joined(separator: ","))}"
    }

    /// Backslash and line feed, in help and labels alike; the quotation mark is a label's own.
    private static func escaped(_ text: String) -> String {
        text.replacing("\\", with: "\\\\").replacing("\n", with: "\\n")
    }

    /// As Go's ParseFloat reads it. Whole numbers without an exponent, for people.
    static func number(_ value: Double) -> String {
        if value.isNaN { return "NaN" }
        if value.isInfinite { return value < 0 ? "-Inf" : "+Inf" }
        if value == value.rounded(), value.magnitude < 9e15 { return "\(Int64(value))" }
        return "\(value)"
    }
}
