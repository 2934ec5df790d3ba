// SPDX-License-Identifier: Apache-2.0

internal import DCPLocalCluster
internal import DCPWire

/// From the timings of steps to figures.
extension StepRun {
    /// - Parameters:
    ///   - alone: of the same steps, without prefills beside them.
    ///   - prefills: seconds of each prefill.
    func figures(
        _ timings: [Timing], _ shards: Shards, alone: [Timing] = [], prefills: [Double] = []
    ) -> [Figure] {
        func samples(_ value: (Timing) -> Double) -> Samples { Samples(timings.map { value($0) * 1e3 }) }
        func time(_ rank: Int, _ value: @escaping (StepTimes) -> UInt64) -> Samples {
            samples { Double(value($0.ranks[rank])) / 1e9 }
        }
        let latency = samples(\.latency)
        let partOfStep = "what the figure is a part of, at the client"
        let (read, detail) = shards.fastest(timings.map(\.reads))
        let ranks = local.configuration.ranks
        let kernels = (0..<ranks).map { rank in time(rank) { $0.kernels / UInt64(threads) } }
        // Whichever it is in each step: all wait for it.
        func slower(_ timing: Timing) -> Double {
            Double((timing.ranks.map(\.kernels).max() ?? 0) / UInt64(threads)) / 1e9
        }
        let pingPong = samples(\.pingPong)
        let bytes = messages.map { "\($0.there) bytes there and \($0.back) back" }.joined(separator: ", then ")
        var figures = [
            Figure("step at the client", latency, unit: "ms").under(
                "streaming read", read.map { $0 * 1e3 }, detail: detail)
        ]
        if !alone.isEmpty, !prefills.isEmpty {
            let alone = Samples(alone.map { $0.latency * 1e3 })
            figures[0] = figures[0].of(
                "alone", Samples([alone.median]), detail: "the median of the same steps without prefills beside them")
            figures.append(Figure("step alone", alone, unit: "ms"))
            figures.append(Figure("prefill beside them", Samples(prefills.map { $0 * 1e3 }), unit: "ms"))
        }
        let lone = timings.compactMap(\.alone)
        if lone.count == timings.count, !lone.isEmpty {
            figures.append(
                Figure("step of \(load.batch) forks", latency, unit: "ms").of(
                    "\(load.batch) steps of one", Samples(lone.map { $0 * 1e3 }),
                    detail: "of other forks, one after the other, in turn with it"))
        }
        if load.layers > 1 || load.commits {
            figures.append(Figure("token at the client", samples(\.token), unit: "ms"))
        }
        figures += [
            Figure("overhead: step without kernels", samples { $0.latency - slower($0) }, unit: "ms").under(
                "ping-pong", pingPong, detail: "over a Unix socket between two threads: \(bytes)"),
            Figure("ping-pong of the same bytes", pingPong, unit: "ms").of("step", latency, detail: partOfStep),
        ]
        if ranks > 1 {
            figures.append(
                Figure("slower rank: kernels", samples(slower), unit: "ms").of("step", latency, detail: partOfStep))
        }
        figures.append(
            Figure(
                "event loop of a rank, processor time, the mean", samples { $0.loops.reduce(0, +) / Double(ranks) },
                unit: "ms"
            )
            .of("step", latency))
        for rank in 0..<ranks {
            let name = "rank \(rank)"
            figures.append(
                Figure("\(name): kernels", kernels[rank], unit: "ms").of("step", latency, detail: partOfStep))
            let parts: [(String, (StepTimes) -> UInt64)] = [
                ("total", \.total), ("new tokens", \.newTokens), ("context", \.context), ("query wait", \.queryWait),
                ("partial wait", \.partialWait), ("merge", \.merge), ("other", \.other),
            ]
            for (part, value) in parts {
                figures.append(Figure("\(name): \(part)", time(rank, value), unit: "ms").of("step", latency))
            }
        }
        if ranks > 1 {
            // The last rank to be ready does not wait for computations: its waits are only the exchange.
            let exchange = samples { timing in
                let query = timing.ranks.map(\.queryWait).min() ?? 0
                let partial = timing.ranks.map(\.partialWait).min() ?? 0
                return Double(query + partial) / 1e9
            }
            figures.append(Figure("exchange, least waits", exchange, unit: "ms").of("step", latency))
        }
        return figures + twinFigures(timings, latency)
    }

    /// The time of the Python client beside this one: for whole steps, and for the part outside the ranks.
    private func twinFigures(_ timings: [Timing], _ latency: Samples) -> [Figure] {
        let twins = timings.compactMap(\.python)
        guard twins.count == timings.count else { return [] }
        func own(_ latency: Double, _ ranks: [StepTimes]) -> Double {
            (latency - Double(ranks.map(\.total).max() ?? 0) / 1e9) * 1e3
        }
        return [
            Figure("step at the client in Python", Samples(twins.map { $0.latency * 1e3 }), unit: "ms").under(
                "Swift", latency, detail: "the client in Swift, in turn with it"),
            Figure("the client's part, in Python", Samples(twins.map { own($0.latency, $0.ranks) }), unit: "ms").under(
                "Swift", Samples(timings.map { own($0.latency, $0.ranks) }),
                detail: "the step at the client without the slower rank's total"),
        ]
    }
}
