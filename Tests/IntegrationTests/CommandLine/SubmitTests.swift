// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPSafetensors
import DCPTestKit
import Foundation
import Testing

extension Integration {
    @Suite("dcpctl: submit")
    struct SubmitTests {
        @Test("--position, --expect and --output: what is wrong is refused with both numbers, what is right passes")
        func expectations() async throws {
            let trace = Trace(try shape(4, 2, 16, 8, .float32), tokens: 60, salt: 800)
            try await ClusterSetup(ranks: 3).run { cluster in
                func path(_ name: String) -> String { cluster.directory.path("\(name).safetensors") }
                try trace.write(0..<40, to: path("a"))
                try trace.write(40..<60, to: path("b"))
                try trace.writeReference(0..<40, to: path("a-expected"))
                try trace.writeReference(40..<60, to: path("b-expected"))
                try trace.writeReference(40..<60, to: path("b-wrong"), offset: 1e-3)
                let submit = ["submit", "--sequence", "s", "--model", "m", "--prefill", "30", "--chunk", "7"]

                let first = try await cluster.tool.run(
                    submit + [path("a"), "--expect", path("a-expected"), "--json", "--position", "0"])
                #expect(first.status == 0, "\(first.messages)")
                let report = try first.object()
                #expect(report["committed_length"] as? Int == 40 && report["prefill_tokens"] as? Int == 30)
                let layers = try #require(report["layers"] as? [[String: Any]])
                #expect(layers.count == 1 && (layers[0]["output_error_max"] as? Double).map { $0 < 2e-5 } == true)
                let latencies = try #require(report["latencies"] as? [[String: Any]])
                #expect(latencies.compactMap { $0["count"] as? Int } == [5, 10, 15])

                let rest = ["submit", "--sequence", "s", "--model", "m", path("b")]
                for position in ["0", "39", "41"] {
                    try await cluster.tool.fails(
                        65, saying: ["position \(position)", "40 tokens"], rest + ["--position", position])
                }
                try await cluster.tool.fails(
                    65, saying: ["[40, 4, 8]", "[20, 4, 8]"], rest + ["--expect", path("a-expected")])
                // The answer is compared when it is there: the tokens are sent and stay.
                let wrong = try await cluster.tool.run(
                    rest + [
                        "--position", "40", "--expect", path("b-wrong"), "--output", path("o"), "--query", "replicate",
                    ])
                #expect(wrong.status == 65 && wrong.messages.contains("2e-05"), "\(wrong.messages)")
                trace.check(try Answer(file: path("o")), 40..<60, "the output file")
                let loose = try await cluster.tool.run(
                    "submit", path("a"), "--sequence", "t", "--model", "m", "--expect", path("a-expected"),
                    "--tolerance", "1e-9")
                #expect(loose.status == 65 && loose.messages.contains("--tolerance"))
            }
        }

        @Test("a file with some of a model's layers is answered, and nothing of it is committed or stays")
        func layers() async throws {
            let trace = Trace(try shape(layers: 2, 4, 2, 16, 8, .bfloat16), tokens: 30, salt: 801)
            try await ClusterSetup(ranks: 2).run { cluster in
                let file = cluster.directory.path("layer.safetensors")
                let output = cluster.directory.path("o.safetensors")
                for layer in 0..<2 {
                    // The same position each time: the next client does not find what the one before has left.
                    try trace.write(0..<20, layer: layer, to: file)
                    let outcome = try await cluster.tool.run(
                        "submit", file, "--sequence", "s", "--model", "m", "--layer", "\(layer)", "--layers", "2",
                        "--kv-format", "bf16", "--output", output, "--json", "--position", "0")
                    #expect(outcome.status == 0 && outcome.messages.contains("lacks layer \(1 - layer) of"))
                    trace.check(try Answer(file: output), layer: layer, 0..<20, "layer \(layer)")
                    #expect(try outcome.object()["committed_length"] as? Int == 0)
                }
                let whole = cluster.directory.path("whole.safetensors")
                try trace.write(layer: nil, to: whole)
                let outcome = try await cluster.tool.run(
                    "submit", whole, "--sequence", "s", "--model", "m", "--position", "0", "--json")
                #expect(try outcome.object()["committed_length"] as? Int == 30, "\(outcome.messages)")
            }
        }

        @Test(
            "--continue resumes at the sequence's position in the file, and refuses another file", arguments: [nil, 20])
        func continues(position: Int?) async throws {
            let trace = Trace(try shape(layers: 2, 4, 2, 16, 8, .bfloat16), tokens: 80, salt: 803)
            let first = position ?? 0
            try await ClusterSetup(ranks: 2).run { cluster in
                func path(_ name: String) -> String { cluster.directory.path("\(name).safetensors") }
                let (whole, other, output) = (path("whole"), path("other"), path("o"))
                try trace.write(
                    first..<80, layer: nil, to: whole, metadata: position.map { ["position": "\($0)"] } ?? [:])
                var changed = trace
                // In the last layer, at a position that is stored.
                changed.layers[1].values[(40 * 2 + 1) * 8 + 3] += 0.5
                try changed.write(first..<80, layer: nil, to: other)
                let submit = [
                    "submit", "--sequence", "s", "--model", "m", "--kv-format", "bf16", "--continue", "--json",
                ]
                // What a command has left that was interrupted: tokens up to 50 are committed, some layers have more.
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s", model: "m")
                    _ = try await client.play(trace, Cuts([0, 20, 50]), on: sequence)
                    _ = try await client.step(trace, 50..<60, on: sequence)
                }
                try await cluster.tool.fails(
                    65, saying: ["layer 1", "not the beginning"], submit + [other, "--position", "\(first)"])
                try await cluster.tool.fails(
                    65, saying: ["50 committed tokens", "51..<\(131 - first)"], submit + [whole, "--position", "51"])
                let outcome = try await cluster.tool.run(submit + [whole, "--output", output])
                #expect(outcome.status == 0, "\(outcome.messages)")
                let report = try outcome.object()
                #expect(report["kept_tokens"] as? Int == 50 - first && report["committed_length"] as? Int == 80)
                for layer in 0..<2 {
                    trace.check(
                        try Answer(file: output, prefix: "layers.\(layer)."), layer: layer, 50..<80, "layer \(layer)")
                }
                #expect(try SafetensorsFile.open(output).metadata["first_token"] == "\(50 - first)")
                // Once more, there is nothing left to do.
                let again = try await cluster.tool.run(submit + [whole])
                #expect(try again.object()["kept_tokens"] as? Int == 80 - first, "\(again.messages)")
            }
        }

        @Test("flags win over the metadata, the metadata over defaults; names default to the file's")
        func precedence() async throws {
            let trace = Trace(try shape(4, 2, 16, 8, .float32), tokens: 12, salt: 802)
            try await ClusterSetup(ranks: 2).run { cluster in
                let file = cluster.directory.path("prompt.safetensors")
                func submit(_ options: String...) async throws -> [String: Any] {
                    let outcome = try await cluster.tool.run(["submit", file, "--json"] + options)
                    #expect(outcome.status == 0, "\(outcome.messages)")
                    return try outcome.object()
                }
                func model(_ name: String) async throws -> [String: Any] {
                    try await cluster.tool.run("model", "show", name, "--json").object()
                }
                func kind(_ model: [String: Any]) throws -> [String: Any] {
                    let kinds = try #require(model["kinds"] as? [[String: Any]])
                    #expect(kinds.count == 1)
                    return kinds[0]
                }
                try trace.write(to: file)
                let plain = try await submit()
                #expect(plain["model"] as? String == "prompt" && plain["sequence"] as? String == "prompt")
                #expect(plain["prefill_tokens"] as? Int == 12)
                #expect(try await kind(model("prompt"))["scale"] as? Double == 0.25)
                #expect(try await model("prompt")["kv_format"] as? String == "f32")

                try trace.write(
                    to: file,
                    metadata: [
                        "model": "stated", "sequence": "told", "scale": "0.5", "softcap": "20", "layers": "3",
                        "prefill_tokens": "8", "position": "0",
                    ])
                let stated = try await submit()
                #expect(stated["model"] as? String == "stated" && stated["sequence"] as? String == "told")
                #expect(stated["prefill_tokens"] as? Int == 8)
                let shown = try await model("stated")
                #expect(try kind(shown)["scale"] as? Double == 0.5 && kind(shown)["softcap"] as? Double == 20)
                #expect(shown["layers"] as? Int == 3)

                let flagged = try await submit(
                    "--model", "flag", "--sequence", "raised", "--scale", "2", "--softcap", "0", "--layers", "1",
                    "--prefill", "4", "--kv-format", "f16")
                #expect(flagged["model"] as? String == "flag" && flagged["sequence"] as? String == "raised")
                #expect(flagged["prefill_tokens"] as? Int == 4)
                let other = try await model("flag")
                #expect(try kind(other)["scale"] as? Double == 2 && kind(other)["softcap"] == nil)
                #expect(other["layers"] as? Int == 1)
                #expect(other["kv_format"] as? String == "f16")
            }
        }

        @Test("the SmolLM2 trace on a cluster of this one call: the expected answer, a table, and nothing left behind")
        func local() async throws {
            let directory = TemporaryDirectory()
            var tool = CommandLineTool(coordinator: "unix:/nonexistent")
            tool.environment["TMPDIR"] = directory.path
            let arguments = [
                "submit", repositoryFile("Tests/Fixtures/smollm2-trace.safetensors"), "--local", "4", "--chunk", "96",
                "--expect", repositoryFile("Tests/Fixtures/smollm2-trace-expected.safetensors"),
            ]
            let text = try await tool.run(arguments)
            #expect(text.status == 0, "\(text.messages)")
            for word in ["MAX ERROR O", "MAX ERROR LSE", "TOKENS", "prefill step", "decode step"] {
                #expect(text.data.contains(word), "\(text.data)")
            }
            let json = try await tool.run(arguments + ["--json", "--head-groups", "1", "--exchange", "ag-rs"])
            #expect(json.status == 0, "\(json.messages)")
            let layers = try #require(try json.object()["layers"] as? [[String: Any]])
            #expect(layers.count == 3)
            for layer in layers {
                #expect((layer["output_error_max"] as? Double).map { $0 < 2e-5 } == true)
                #expect((layer["lse_error_max"] as? Double).map { $0 < 2e-5 } == true)
            }
            #expect(try FileManager.default.contentsOfDirectory(atPath: directory.path).isEmpty)
        }
    }
}
