// SPDX-License-Identifier: Apache-2.0

internal import DCPConsole
internal import Foundation

extension Report {
    /// A table of all figures, a line for each other.
    public var table: String {
        var table = TextTable(
            [TextTable.Column("WHAT", alignment: .left), TextTable.Column("FIGURE", alignment: .left)]
                + ["MEDIAN", "P10", "P90", "P99", "RUNS"].map { TextTable.Column($0, alignment: .right) }
                + [TextTable.Column("BESIDE", alignment: .left)]
                + ["ITS MEDIAN", "RATIO", "TIME", "ERROR O", "ERROR LSE"].map {
                    TextTable.Column($0, alignment: .right)
                })
        for result in results {
            for (index, figure) in result.figures.enumerated() {
                let value = figure.value
                let left = [
                    index == 0 ? result.parameters.label : "", figure.name,
                    "\(Self.number(value.median)) \(value.unit)",
                    Self.number(value.p10), Self.number(value.p90), Self.number(value.p99), "\(value.runs)",
                ]
                let errors = result.accuracy.map { [Self.error($0.outputMax), Self.error($0.lseMax)] } ?? ["", ""]
                let time = result.time.map { "\(Self.number($0.median)) \($0.unit)" } ?? ""
                let last = index == 0 ? [time] + errors : ["", "", ""]
                if figure.beside.isEmpty { table.append(left + ["", "", ""] + last) }
                for (line, other) in figure.beside.enumerated() {
                    let right = [
                        other.name, "\(Self.number(other.value.median)) \(other.value.unit)",
                        Self.ratio(other.ratio),
                    ]
                    table.append(
                        (line == 0 ? left : [String](repeating: "", count: left.count)) + right
                            + (line == 0 ? last : ["", "", ""]))
                }
            }
        }
        return table.rendered()
    }

    /// Notes below the table: machine, kernels, seed, how ceilings were measured, and what is not measured.
    public var notes: [String] {
        var notes = [
            "Machine: \(machine.cpu), \(machine.cores) cores, \(ByteFormat.format(machine.memoryBytes)), \(machine.system).",
            "Kernels: \(kernels.instructionSet), OpenBLAS \(kernels.openblasCore). Seed \(seed).",
        ]
        if kernels.openblasCoreIsForcedOlder {
            notes.append(
                "OPENBLAS_CORETYPE forces an older core than this CPU: prefill and sgemm are slower than necessary; "
                    + "unset it (and OPENBLAS_L2_SIZE), or run `make bench`.")
        }
        notes.append(
            "RATIO is the median over all rounds of the figure divided by what stands beside it; a duration's ceiling is "
                + "divided by the duration, so that 1 is as good as can be everywhere.")
        var details: [String] = []
        for other in results.flatMap(\.figures).flatMap(\.beside) where !other.detail.isEmpty {
            let detail = "\(other.name): \(other.detail)"
            if !details.contains(detail) { details.append(detail) }
        }
        notes += details.map { "Beside: \($0)." }
        let rows = results.compactMap(\.accuracy?.rows)
        if let rows = rows.max() {
            notes.append(
                "Errors are the largest differences from dense attention in float64 over the same keys and values, on up "
                    + "to \(rows) rows of each result.")
        }
        return notes + notMeasured.map { "Not measured: \($0)." }
    }

    /// Three digits, or whole numbers; thousandths below one.
    static func number(_ value: Double) -> String {
        let magnitude = value.magnitude
        let decimals = magnitude < 0.9995 ? 3 : magnitude < 9.995 ? 2 : magnitude < 99.95 ? 1 : 0
        return String(format: "%.\(decimals)f", value)
    }

    static func ratio(_ value: Double) -> String { String(format: "%.2f", value) }

    static func error(_ value: Double) -> String { String(format: "%.1e", value) }
}
