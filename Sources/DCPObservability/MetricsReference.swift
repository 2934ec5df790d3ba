// SPDX-License-Identifier: Apache-2.0

/// The article Metrics.md, from the table.
public enum MetricsReference {
    public static func article(introduction: String) -> String {
        var text = introduction
        for daemon in Metric.Daemon.allCases {
            let heading = daemon == .rank ? "## What a rank tells" : "## What the coordinator tells"
            text += "\n\(heading)\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n"
            for metric in Metric.all where metric.daemons.contains(daemon) {
                let labels = metric.labels.map { "`\($0)`" }.joined(separator: ", ")
                let meaning = metric.detail.isEmpty ? metric.help : "\(metric.help) \(metric.detail)"
                text += "| `\(metric.name)` | \(metric.kind.rawValue) | \(labels) | \(meaning) |\n"
            }
        }
        return text
    }
}
