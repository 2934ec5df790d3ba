// SPDX-License-Identifier: Apache-2.0

extension ModelDescription {
    /// A readable description of the layers, with a line for each kind: `0 to 4, 6 to 10, 12: 8 query heads on 4 KV
    /// heads ...`.
    public var kindLines: [String] {
        kinds.indices.map { kind in
            let places = runs.filter { $0.kind == kind }.map { run in
                run.layers.count == 1
                    ? "\(run.layers.lowerBound)" : "\(run.layers.lowerBound) to \(run.layers.upperBound - 1)"
            }
            let noun = places.count == 1 && !places[0].contains(" ") ? "layer" : "layers"
            return "\(noun) \(places.joined(separator: ", ")): \(kinds[kind])"
        }
    }

    /// The order of kinds, with repetitions factored out: `4 x (5 x window of 1024 tokens, 1 x all), 2 x window of 1024
    /// tokens`.
    ///
    /// Kinds are named by their visibility if that distinguishes them, otherwise by their numbers.
    public var pattern: String {
        let names = kinds.map { $0.visibility.description }
        let isTold = Set(names).count == names.count
        let runs = runs.map { "\($0.layers.count) x \(isTold ? names[$0.kind] : "kind \($0.kind)")" }
        // The shortest period that repeats from the start; a tail of whole runs may follow.
        var best: (period: Int, times: Int)?
        if runs.count >= 4 {
            for period in 2...runs.count / 2 {
                var times = 1
                while (times + 1) * period <= runs.count,
                    runs[times * period..<(times + 1) * period] == runs[..<period]
                {
                    times += 1
                }
                if times > 1, times * period > (best.map { $0.period * $0.times } ?? 0) { best = (period, times) }
            }
        }
        guard let best else { return runs.joined(separator: ", ") }
        let tail = runs[(best.period * best.times)...]
        let repeated = "\(best.times) x (\(runs[..<best.period].joined(separator: ", ")))"
        return ([repeated] + tail).joined(separator: ", ")
    }
}

extension LayerAttention: CustomStringConvertible {
    /// `8 query heads on 4 KV heads, dims 96 and 96, scale 0.125, soft cap 5.0, window of 70 tokens, a sink for each query head`.
    public var description: String {
        var parts = [
            "\(queryHeads) query \(queryHeads == 1 ? "head" : "heads") on \(kvHeads) KV \(kvHeads == 1 ? "head" : "heads")"
        ]
        switch values {
        case .own(let dim): parts.append("dims \(keyDim) and \(dim)")
        case .leading(let dim): parts.append("keys of \(keyDim), values their first \(dim)")
        }
        parts.append("scale \(scale)")
        if let softcap { parts.append("soft cap \(softcap)") }
        parts.append(visibility == .all ? "all tokens" : visibility.description)
        if hasSinks { parts.append("a sink for each query head") }
        return parts.joined(separator: ", ")
    }
}
