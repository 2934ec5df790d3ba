// SPDX-License-Identifier: Apache-2.0

/// One metric that a daemon exposes: its name, what it means, and its labels. The table `Metric.all` is the only place
/// where a metric is described; the exposition's HELP lines and the article Metrics.md are made from it.
public struct Metric: Hashable, Sendable {
    public enum Kind: String, Sendable {
        case counter
        case gauge
        case histogram
    }

    public enum Daemon: String, CaseIterable, Sendable {
        case rank
        case coordinator
    }

    public let name: String
    public let kind: Kind
    /// One line. Says what is counted, and in which unit where the name does not end in it.
    public let help: String
    public let labels: [String]
    public let daemons: Set<Daemon>
    /// How to interpret it; only for the article.
    public let detail: String

    /// Traps for a name or a label that breaks Prometheus' naming rules: they are written by us alone.
    init(
        _ name: String, _ kind: Kind, _ daemons: Set<Daemon>, labels: [String] = [], _ help: String,
        _ detail: String = ""
    ) {
        precondition(Self.isName(name) && labels.allSatisfy(Self.isName))
        precondition(name.hasPrefix("dcp_") || name.hasPrefix("process_"))
        precondition((kind == .counter) == name.hasSuffix("_total"), "\(name)")
        self.name = name
        self.kind = kind
        self.daemons = daemons
        self.labels = labels
        self.help = help
        self.detail = detail
    }

    private static func isName(_ text: String) -> Bool {
        !text.isEmpty && text.utf8.allSatisfy { (97...122).contains($0) || (48...57).contains($0) || $0 == 95 }
    }
}
