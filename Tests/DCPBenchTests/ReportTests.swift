// SPDX-License-Identifier: Apache-2.0

import DCPBench
import DCPConsole
import DCPCore
import Foundation
import FoundationXML
import Testing

@Suite("report")
struct ReportTests {
    private static func report() throws -> Report {
        var report = Report(
            "kernels decode", parameters: ["context": "1k"], seed: 7, directory: "/nowhere", notMeasured: ["the <sea>"])
        var parameters = Parameters(
            "decode", try AttentionShape("32x8x128"), .bfloat16, context: 1024, count: 1, threads: 1)
        parameters.queries = "bf16"
        report.results = [
            Finding(
                parameters: parameters,
                figures: [
                    Figure("K and V read", Samples([10, 20, 30]), unit: "GB/s")
                        .under("streaming & read", Samples([40, 40, 40]), detail: "512-bit")
                ],
                time: Quantity(Samples([0.25]), unit: "ms"),
                accuracy: Accuracy(outputMax: 1e-8, outputRelativeMax: 1e-6, lseMax: .infinity, rows: 4)),
            Finding(
                parameters: parameters,
                figures: [
                    Figure("step", Samples([8]), unit: "ms").under("read", Samples([2])),
                    Figure("kernels", Samples([6]), unit: "ms").of("step", Samples([8])),
                ]),
        ]
        return report
    }

    @Test("ratios: rates by their ceiling, durations the other way round, parts by their whole")
    func ratios() throws {
        let figures = try Self.report().results.flatMap(\.figures)
        #expect(figures.flatMap(\.beside).map(\.ratio) == [0.5, 0.25, 0.75])
        #expect(figures.flatMap(\.beside).map(\.kind) == [.ceiling, .ceiling, .whole])
    }

    @Test("a ratio is that of each round, whatever comes over the machine for a while")
    func rounds() {
        let figure = Figure("K and V read", Samples([10, 20, 20]), unit: "GB/s")
            .under("streaming read", Samples([20, 50, 40]))
        #expect(figure.beside.map(\.ratio) == [0.5] && figure.beside.map(\.value.median) == [40])
    }

    @Test("JSON: one object with machine, kernels, parameters, seed, results and what is not measured")
    func json() throws {
        let text = try JSONOutput.string(Self.report())
        let object = try #require(try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any])
        #expect(object["benchmark"] as? String == "kernels decode")
        #expect(object["seed"] as? Int == 7)
        #expect((object["parameters"] as? [String: String])?["context"] == "1k")
        #expect((object["not_measured"] as? [String]) == ["the <sea>"])
        let machine = try #require(object["machine"] as? [String: Any])
        #expect((machine["cpu"] as? String)?.isEmpty == false && (machine["cores"] as? Int ?? 0) >= 1)
        let kernels = try #require(object["kernels"] as? [String: Any])
        #expect(kernels["instruction_set"] is String && kernels["openblas_core"] is String)
        let result = try #require((object["results"] as? [[String: Any]])?.first)
        let figure = try #require((result["figures"] as? [[String: Any]])?.first)
        let value = try #require(figure["value"] as? [String: Any])
        #expect(value["median"] as? Double == 20 && value["unit"] as? String == "GB/s" && value["runs"] as? Int == 3)
        let beside = try #require((figure["beside"] as? [[String: Any]])?.first)
        #expect(beside["kind"] as? String == "ceiling" && beside["ratio"] as? Double == 0.5)
        #expect((result["accuracy"] as? [String: Any])?["lse_max"] as? String == "inf")
        #expect((result["parameters"] as? [String: Any])?["kv_format"] as? String == "bf16")
    }

    @Test("table: a line for each figure and each that stands beside it, with ratio, time and errors")
    func table() throws {
        let lines = try Self.report().table.split(separator: "\n").map(String.init)
        #expect(lines.count == 4)
        for word in ["decode 32x8x128 bf16, 1k, 1 thread", "20.0 GB/s", "40.0 GB/s", "0.50", "0.250 ms", "1.0e-08"] {
            #expect(lines[1].contains(word), "no \(word) in: \(lines[1])")
        }
        #expect(lines[3].contains("kernels") && lines[3].contains("0.75"))
    }

    @Test("notes: machine, kernels, seed, how the ceiling was measured, what is not")
    func notes() throws {
        let notes = try Self.report().notes.joined(separator: "\n")
        for word in [Machine.current.cpu, "OpenBLAS", "Seed 7", "512-bit", "float64", "4 rows", "the <sea>"] {
            #expect(notes.contains(word), "no \(word) in: \(notes)")
        }
    }

    @Test("plot: well-formed XML with a bar for each figure and ceiling, whatever the names hold")
    func plot() throws {
        let counter = ElementCounter()
        let parser = XMLParser(data: Data(try Self.report().svg.utf8))
        parser.delegate = counter
        #expect(parser.parse(), "\(parser.parserError.map { "\($0)" } ?? "")")
        // The background, three figures, two ceilings; what the third is a part of is text.
        #expect(counter.rectangles == 6)
        #expect(counter.text.contains("streaming & read"))
        #expect(counter.text.contains("0.75 of the step") && counter.text.contains("0.25 of the figure"))
    }
}

private final class ElementCounter: NSObject, XMLParserDelegate {
    var rectangles = 0
    var text = ""

    func parser(
        _ parser: XMLParser, didStartElement name: String, namespaceURI: String?, qualifiedName: String?,
        attributes: [String: String]
    ) {
        if name == "rect" { rectangles += 1 }
    }

    func parser(_ parser: XMLParser, foundCharacters string: String) { text += string }
}
