// SPDX-License-Identifier: Apache-2.0

import DCPObservability
import Testing

@Suite("the exposition format")
struct ExpositionTests {
    @Test("help, type, constant labels before own ones")
    func lines() {
        var exposition = Exposition(labels: [("rank", "3")])
        exposition.add(.epoch, 7)
        exposition.add(.storeCondition, [(["writable"], 1), (["full"], 0)])
        #expect(
            exposition.text == """
                # HELP dcp_epoch The membership's epoch.
                # TYPE dcp_epoch gauge
                dcp_epoch{rank="3"} 7
                # HELP dcp_store_condition 1 for the store's current condition, 0 for the others.
                # TYPE dcp_store_condition gauge
                dcp_store_condition{rank="3",condition="writable"} 1
                dcp_store_condition{rank="3",condition="full"} 0

                """)
    }

    @Test("a label's backslash, quotation mark and line feed are escaped")
    func escaping() {
        var exposition = Exposition()
        exposition.add(.buildInfo, [(["a\\b\"c\nd", ""], 1)])
        #expect(exposition.text.hasSuffix("dcp_build_info{version=\"a\\\\b\\\"c\\nd\",kernels=\"\"} 1\n"))
    }

    @Test("a histogram: cumulative buckets in seconds, +Inf equal to the count")
    func histogram() {
        var histogram = Histogram(Histogram.Buckets(bounds: [250_000, 2_500_000_000], ticksPerUnit: 1_000_000_000))
        for value in [100_000, 250_000, 1_000_000_000, 5_000_000_000] as [UInt64] { histogram.observe(value) }
        var exposition = Exposition()
        exposition.add(.commitDuration, histogram)
        #expect(
            exposition.text.split(separator: "\n").dropFirst(2).map(String.init) == [
                #"dcp_commit_duration_seconds_bucket{le="0.00025"} 2"#,
                #"dcp_commit_duration_seconds_bucket{le="2.5"} 3"#,
                #"dcp_commit_duration_seconds_bucket{le="+Inf"} 4"#,
                "dcp_commit_duration_seconds_sum 6.00035",
                "dcp_commit_duration_seconds_count 4",
            ])
    }

    @Test("the table: every name once, a help of one line, and no unit but base units")
    func table() {
        #expect(Set(Metric.all.map(\.name)).count == Metric.all.count)
        for metric in Metric.all {
            #expect(!metric.help.isEmpty && !metric.help.contains("\n") && metric.help.hasSuffix("."), "\(metric.name)")
            #expect(!metric.daemons.isEmpty && !metric.labels.contains("rank"), "\(metric.name)")
            let words = metric.name.split(separator: "_")
            for unit in ["ms", "milliseconds", "us", "microseconds", "nanoseconds", "kilobytes", "mib", "percent"] {
                #expect(!words.contains(Substring(unit)), "\(metric.name)")
            }
        }
    }
}
