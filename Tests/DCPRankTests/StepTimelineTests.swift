// SPDX-License-Identifier: Apache-2.0

import DCPRank
import DCPWire
import NIOCore
import Testing

@Suite("StepTimeline: where a step's time went")
struct StepTimelineTests {
    private func at(_ nanoseconds: UInt64) -> NIODeadline { .uptimeNanoseconds(1_000_000 + nanoseconds) }

    private func span(_ begin: UInt64, _ end: UInt64, kernels: Int64) -> ComputeSpan {
        ComputeSpan(begin: at(begin), end: at(end), kernelTime: .nanoseconds(kernels))
    }

    @Test("parts are from event to event; what none covers is other")
    func parts() {
        var timeline = StepTimeline(arrival: at(0))
        timeline.newTokens = span(10, 30, kernels: 15)
        timeline.contextReady = at(50)
        timeline.context = span(60, 160, kernels: 190)
        timeline.partialReady = at(170)
        timeline.mergeReady = at(200)
        timeline.merged = at(205)
        let times = timeline.times(replied: at(225))
        #expect(times.total == 225)
        #expect(times.newTokens == 20 && times.context == 100 && times.kernels == 205)
        #expect(times.queryWait == 50 && times.partialWait == 30 && times.merge == 5)
        // 50 to 60, 160 to 170 and 205 to 225: the new tokens are inside the wait for queries, and counted once.
        #expect(times.other == 40)
    }

    @Test("a step without context waits for no queries and no partials")
    func withoutContext() {
        var timeline = StepTimeline(arrival: at(0))
        timeline.newTokens = span(5, 25, kernels: 20)
        let times = timeline.times(replied: at(30))
        #expect(times.total == 30 && times.newTokens == 20 && times.other == 10)
        #expect(times.context == 0 && times.queryWait == 0 && times.partialWait == 0 && times.merge == 0)
    }

    @Test("new tokens that are computed beside the context are counted once in what is covered")
    func overlap() {
        var timeline = StepTimeline(arrival: at(0))
        timeline.contextReady = at(10)
        timeline.newTokens = span(5, 80, kernels: 70)
        timeline.context = span(20, 60, kernels: 40)
        timeline.partialReady = at(60)
        timeline.mergeReady = at(80)
        timeline.merged = at(100)
        #expect(timeline.times(replied: at(100)).other == 0)
    }

    @Test("sums add up and differ part by part")
    func sums() {
        var timeline = StepTimeline(arrival: at(0))
        timeline.newTokens = span(5, 25, kernels: 20)
        let one = timeline.times(replied: at(30))
        var sum = StepTimes()
        sum += one
        sum += one
        #expect(sum.total == 60 && sum.newTokens == 40 && sum.kernels == 40 && sum.other == 20)
        #expect(sum - one == one)
    }
}
