// SPDX-License-Identifier: Apache-2.0

import DCPObservability
import Foundation
import Testing

/// The dashboard and the rules may only use what there is.
@Suite("dashboard and alert rules")
struct AssetsTests {
    private static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()

    private static func text(_ name: String) throws -> String {
        try String(contentsOf: root.appending(path: "observability/" + name), encoding: .utf8)
    }

    /// What can be asked for: a histogram is three series.
    private static let series: Set<String> = Set(
        Metric.all.flatMap { metric in
            metric.kind == .histogram
                ? ["_bucket", "_sum", "_count"].map { metric.name + $0 } : [metric.name]
        })

    private static func names(in text: String) -> Set<String> {
        Set(text.matches(of: /\b(dcp|process)_[a-z0-9_]+/).map { String($0.output.0) })
    }

    @Test("every metric named exists", arguments: ["dcp-dashboard.json", "dcp-rules.yaml", "dcp-rules-test.yaml"])
    func names(_ file: String) throws {
        let names = Self.names(in: try Self.text(file))
        #expect(names.count >= 8, "\(names)")
        // A description may speak of a histogram as a whole.
        let known = Self.series.union(Metric.all.map(\.name))
        for name in names.sorted() { #expect(known.contains(name), "\(file) uses \(name)") }
    }

    private static func panels() throws -> [[String: Any]] {
        let document = try JSONSerialization.jsonObject(with: Data(text("dcp-dashboard.json").utf8))
        let dashboard = try #require(document as? [String: Any])
        return try #require(dashboard["panels"] as? [[String: Any]])
    }

    @Test("the dashboard is JSON; every panel has a query, its own number and its place")
    func dashboard() throws {
        let panels = try Self.panels()
        #expect(Set(panels.compactMap { $0["id"] as? Int }).count == panels.count)
        for panel in panels where panel["type"] as? String != "row" {
            let title = panel["title"] as? String ?? ""
            let targets = try #require(panel["targets"] as? [[String: Any]], "\(title)")
            for target in targets {
                let expression = try #require(target["expr"] as? String, "\(title)")
                let names = Self.names(in: expression)
                #expect(!names.isEmpty && names.isSubset(of: Self.series), "\(title): \(expression)")
            }
        }
    }

    @Test("a legend names its query's quantile, and an age is of something that has been")
    func legends() throws {
        var quantiles = 0
        for target in try Self.panels().compactMap({ $0["targets"] as? [[String: Any]] }).joined() {
            let expression = try #require(target["expr"] as? String)
            let legend = target["legendFormat"] as? String ?? ""
            let quantile = expression.firstMatch(of: /histogram_quantile\(([0-9.]+),/).flatMap {
                Decimal(string: String($0.output.1))
            }
            let named = legend.firstMatch(of: /\bp([0-9.]+)$/).flatMap { Decimal(string: String($0.output.1)) }
            #expect(named == quantile.map { $0 * 100 }, "\(legend): \(expression)")
            quantiles += quantile == nil ? 0 : 1
            // A timestamp of what has never been is 0, and its age decades.
            if expression.contains(/time\(\) - .*_timestamp_seconds/) {
                #expect(expression.contains(/_timestamp_seconds\{.*\} > 0/), "\(expression)")
            }
        }
        #expect(quantiles >= 6)
    }

    @Test("every alert has a severity, a summary, a description, and a page that there is")
    func rules() throws {
        let rules = try Self.text("dcp-rules.yaml").split(separator: "- alert: ").dropFirst()
        #expect(rules.count >= 8)
        for rule in rules {
            for part in ["severity:", "summary:", "description:"] { #expect(rule.contains(part), "\(rule.prefix(30))") }
            let page = try #require(
                rule.firstMatch(of: /runbook: \/usr\/share\/doc\/dcp\/(\w+\.md)\n/), "\(rule.prefix(30))")
            let article = Self.root.appending(path: "Sources/DCPCore/DCPCore.docc/\(page.1)")
            #expect(FileManager.default.fileExists(atPath: article.path), "\(page.1)")
        }
    }
}
