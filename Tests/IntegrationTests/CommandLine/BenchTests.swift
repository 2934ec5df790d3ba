// SPDX-License-Identifier: Apache-2.0

import DCPTestKit
import Foundation
import FoundationXML
import Testing

extension Integration {
    /// The real `dcp-bench` with tiny parameters: that it runs, what it prints, and that nothing stays behind. Its figures
    /// are not looked at but for being there: how fast a machine is cannot be right or wrong.
    @Suite("dcp-bench")
    struct BenchTests {
        private let directory = TemporaryDirectory()
        private var tool: CommandLineTool { CommandLineTool(executable: "dcp-bench") }

        /// Runs a command that must succeed; its JSON document, and nothing left in its directory.
        private func run(_ arguments: String...) async throws -> [String: Any] {
            let outcome = try await tool.run(
                arguments + ["--runs", "2", "--seed", "5", "--json", "--dir", directory.path])
            #expect(outcome.status == 0, "\(outcome.messages)")
            #expect(try FileManager.default.contentsOfDirectory(atPath: directory.path).isEmpty)
            let object = try outcome.object()
            #expect(object["seed"] as? Int == 5)
            #expect((object["machine"] as? [String: Any])?["cpu"] is String)
            #expect((object["kernels"] as? [String: Any])?["openblas_core"] is String)
            #expect((object["not_measured"] as? [String])?.isEmpty == false)
            #expect(outcome.messages.contains("Not measured: ") && outcome.messages.contains("Machine: "))
            return object
        }

        private func results(_ object: [String: Any]) throws -> [[String: Any]] {
            try #require(object["results"] as? [[String: Any]])
        }

        /// Figures by name, each with a positive median; a ceiling has one, too.
        private func figures(_ result: [String: Any]) throws -> [String: [String: Any]] {
            let list = try #require(result["figures"] as? [[String: Any]])
            for figure in list {
                let beside = try #require(figure["beside"] as? [[String: Any]])
                for other in [figure] + beside.filter({ $0["kind"] as? String == "ceiling" }) {
                    let value = try #require(other["value"] as? [String: Any])
                    #expect(try #require(value["median"] as? Double) > 0)
                    #expect(try #require(value["runs"] as? Int) >= 2)
                }
            }
            return Dictionary(
                uniqueKeysWithValues: try list.map { (try #require($0["name"] as? String), $0) })
        }

        /// Kernels of bf16 and fp8 may round weights to bf16, those of int8 round queries and weights to 16 bits.
        private func checkAccuracy(_ result: [String: Any]) throws {
            let accuracy = try #require(result["accuracy"] as? [String: Any])
            let parameters = try #require(result["parameters"] as? [String: Any])
            let rounds = !["f16", "f32"].contains(parameters["kv_format"] as? String)
            #expect(try #require(accuracy["output_max"] as? Double) < (rounds ? 2e-3 : 1e-5), "\(parameters)")
            #expect(try #require(accuracy["lse_max"] as? Double) < (rounds ? 1e-3 : 1e-5), "\(parameters)")
            #expect(try #require(accuracy["rows"] as? Int) >= 1)
        }

        @Test("kernels decode: every combination, with a ceiling and small errors; its plot is well-formed")
        func decode() async throws {
            let plots = TemporaryDirectory()
            let object = try await run(
                "kernels", "decode", "--shape", "4x2x16,smollm2-135m,6x2x16x24", "--context", "96,1k", "--threads",
                "1,2", "--kv-format", "bf16,f16,f32,int8,fp8", "--plot", plots.path("p.svg"))
            let results = try results(object)
            #expect(results.count == 60, "three shapes, two contexts, two thread counts, five formats")
            for result in results {
                let figure = try #require(try figures(result)["K and V read"])
                #expect((figure["beside"] as? [[String: Any]])?.first?["name"] as? String == "streaming read")
                try checkAccuracy(result)
            }
            #expect(XMLParser(data: try Data(contentsOf: URL(filePath: plots.path("p.svg")))).parse())
        }

        @Test("kernels decode: several query tokens, and queries that bf16 does not hold")
        func severalTokens() async throws {
            let object = try await run(
                "kernels", "decode", "--shape", "8x2x32", "--context", "300", "--count", "5", "--queries", "f32")
            for result in try results(object) { try checkAccuracy(result) }
        }

        @Test("kernels prefill: tokens that no token of the context is in the window of")
        func emptyWindow() async throws {
            let object = try await run(
                "kernels", "prefill", "--shape", "4x2x16", "--context", "100", "--count", "40", "--window", "2")
            for result in try results(object) { try checkAccuracy(result) }
        }

        @Test("kernels prefill: the context part and the new tokens, beside sgemm and the peaks")
        func prefill() async throws {
            let object = try await run(
                "kernels", "prefill", "--shape", "4x2x32", "--context", "500", "--count", "70", "--causal",
                "--kv-format",
                "bf16,f32,int8,fp8")
            let results = try results(object)
            #expect(results.count == 8)
            for result in results {
                let beside = try #require(try figures(result)["attention"]?["beside"] as? [[String: Any]])
                #expect(beside.prefix(2).map { $0["name"] as? String } == ["sgemm", "f32 multiply-add"])
                try checkAccuracy(result)
            }
            #expect(results.count { ($0["parameters"] as? [String: Any])?["causal"] as? Bool == true } == 4)
        }

        @Test(
            "kernels --latent: over a store of keys alone, beside what arithmetic allows",
            arguments: ["decode", "prefill"])
        func latent(kind: String) async throws {
            let count = kind == "decode" ? 2 : 40
            let object = try await run(
                "kernels", kind, "--latent", "--shape", "16x1x48x32", "--context", "300", "--count",
                "\(count)", "--kv-format", "bf16,f16,f32")
            let results = try results(object)
            #expect(results.count == 3, "three dtypes")
            for result in results {
                let beside = try #require(try figures(result)["attention"]?["beside"] as? [[String: Any]])
                #expect(beside.first?["name"] as? String == "sgemm")
                try checkAccuracy(result)
            }
        }

        @Test("cache append: append and commit for each kind of rows and each durability")
        func append() async throws {
            let object = try await run(
                "cache", "append", "--shape", "4x2x16", "--count", "40", "--context", "100", "--rows", "f32,bf16,f16",
                "--durability", "never,everysec,always", "--threads", "2", "--kv-format", "f16")
            let results = try results(object)
            #expect(results.count == 9, "three kinds of rows, three durabilities")
            for result in results {
                let figures = try figures(result)
                #expect(figures.keys.sorted() == ["append to panels", "commit"])
            }
        }

        @Test("cache commit: what is written beside the tokens' bytes, alone and shared, for each durability")
        func commit() async throws {
            let object = try await run(
                "cache", "commit", "--shape", "4x2x16", "--layers", "3", "--clients", "1,4", "--ranks", "1,2",
                "--durability", "never,everysec,always")
            let results = try results(object)
            #expect(results.count == 12, "two numbers of clients and of ranks, three durabilities")
            for result in results {
                let list = try #require(result["figures"] as? [[String: Any]])
                let names = list.compactMap { $0["name"] as? String }
                #expect(
                    names == ["written, sealing included", "of it to the disk", "commit", "commits a transaction"])
                func median(_ index: Int) throws -> Double {
                    try #require((list[index]["value"] as? [String: Any])?["median"] as? Double)
                }
                let beside = try #require((list[0]["beside"] as? [[String: Any]])?.first)
                let payload = try #require((beside["value"] as? [String: Any])?["median"] as? Double)
                #expect(payload == 3 * 2 * 2 * 16 * 2 / 1024.0)
                // As a row at the commit, and again in its block.
                #expect(try median(0) >= 2 * payload)
                #expect(try median(3) >= 1)
            }
        }

        @Test("cache open: a start reads a small part of what the store holds")
        func open() async throws {
            let object = try await run("cache", "open", "--shape", "4x2x16", "--context", "20000", "--ranks", "2")
            let list = try #require(try results(object).first?["figures"] as? [[String: Any]])
            #expect(
                list.compactMap { $0["name"] as? String } == [
                    "open, nothing in memory", "read from the disk", "start to ready",
                ])
            let beside = try #require((list[1]["beside"] as? [[String: Any]])?.first)
            #expect(try #require(beside["ratio"] as? Double) < 0.5)
        }

        @Test("step: latency, the ranks' parts and the exchange of real daemons", arguments: ["a2a", "ag-rs"])
        func step(exchange: String) async throws {
            let object = try await run(
                "step", "--shape", "6x2x16", "--context", "200", "--ranks", "3", "--exchange", exchange, "--kv-format",
                "f32",
                "--queries", "f32", "--count", "2")
            let result = try #require(try results(object).first)
            try checkAccuracy(result)
            let list = try #require(result["figures"] as? [[String: Any]])
            let names = Set(list.compactMap { $0["name"] as? String })
            func median(_ name: String) throws -> Double {
                let figure = try #require(list.first { ($0["name"] as? String)?.hasSuffix(name) == true })
                return try #require((figure["value"] as? [String: Any])?["median"] as? Double)
            }
            // A rank's part of every step lies inside what the client measured of it, and the kernels' inside that.
            #expect(try median(": kernels") > 0)
            #expect(try median(": kernels") <= median(": total"))
            #expect(try median(": total") <= median("step at the client"))
            #expect(names.contains("step at the client") && names.contains("exchange, least waits"))
            #expect(try median("overhead: step without kernels") < median("step at the client"))
            #expect(names.contains("ping-pong of the same bytes") && !names.contains("token at the client"))
            for rank in 0..<3 {
                for part in ["total", "kernels", "context", "query wait", "partial wait", "merge", "other"] {
                    #expect(names.contains { $0.hasPrefix("rank \(rank)") && $0.hasSuffix(": \(part)") })
                }
            }
            #expect(names.count { $0 == "slower rank: kernels" } == 1)
            // Of the daemons, which are not asked.
            #expect((object["kernels"] as? [String: Any])?["prefetch"] == nil)
        }

        @Test("step: with scales, the step's own tokens are compared as the cache keeps them")
        func scaled() async throws {
            let object = try await run(
                "step", "--shape", "4x2x16", "--context", "4", "--count", "4", "--kv-format", "int8,fp8")
            let found = try results(object)
            #expect(found.count == 2)
            for result in found { try checkAccuracy(result) }
        }

        @Test(
            "step: several clients, sequences and layers, committed, over what connects machines",
            arguments: ["--tcp", "--tls"])
        func loads(connection: String) async throws {
            let object = try await run(
                "step", "--shape", "6x2x16", "--context", "70", "--clients", "2", "--batch", "3", "--layers", "2",
                "--commit", "--query", "gather", connection)
            let result = try #require(try results(object).first)
            try checkAccuracy(result)
            let load = (result["parameters"] as? [String: Any])?["load"] as? String
            #expect(
                load == "2 clients, batch 3, 2 layers, committed, \(connection.dropFirst(2)), queries gather",
                "\(result)")
            let names = (result["figures"] as? [[String: Any]])?.compactMap { $0["name"] as? String } ?? []
            #expect(names.contains("token at the client"))
        }

        @Test("transfer: rows through real daemons and back, for each number of ranks")
        func transfer() async throws {
            let object = try await run(
                "transfer", "--shape", "4x2x16", "--ranks", "1,3", "--count", "300", "--kv-format", "bf16,int8,fp8")
            let found = try results(object)
            #expect(
                found.compactMap { ($0["parameters"] as? [String: Any])?["ranks"] as? Int } == [1, 3, 1, 3, 1, 3])
            for result in found {
                let list = try #require(result["figures"] as? [[String: Any]])
                #expect(list.compactMap { $0["name"] as? String } == ["append", "read back", "read back, again"])
                for figure in list {
                    let beside = try #require(figure["beside"] as? [[String: Any]])
                    #expect(beside.compactMap { $0["name"] as? String } == ["memcpy", "ping-pong"])
                }
            }
        }

        @Test("directory: each size with its figures, of real daemons")
        func manySequences() async throws {
            let object = try await run(
                "directory", "--sequences", "70,20", "--ranks", "1", "--requests", "9", "--pipelined", "4")
            let found = try results(object)
            #expect(
                found.compactMap { ($0["parameters"] as? [String: Any])?["benchmark"] as? String }
                    == ["directory of 20", "directory of 70"])
            for result in found {
                let names = Set(try figures(result).keys)
                #expect(names.isSuperset(of: ["opens", "look-ups by name", "the whole list"]), "\(names)")
            }
        }

        @Test("forks: one fork and lists of them, each looked at and closed again")
        func forks() async throws {
            let object = try await run(
                "forks", "--shape", "4x2x16", "--ranks", "2", "--context", "100", "--forks", "7")
            let figures = try #require(results(object).first?["figures"] as? [[String: Any]])
            let names = figures.compactMap { $0["name"] as? String }
            #expect(names == ["one fork", "a list of 7", "a list of 7, uncommitted"])
            for figure in figures { #expect((figure["beside"] as? [Any])?.count == 1) }
        }

        @Test("join: ranks that hold the same, and one that has more than the others")
        func join() async throws {
            let object = try await run("join", "--sequences", "30,5", "--ranks", "2")
            let found = try results(object)
            #expect(found.compactMap { ($0["parameters"] as? [String: Any])?["count"] as? Int } == [30, 5])
            for result in found {
                let names = Set(try figures(result).keys)
                #expect(names == ["join, all equal", "join, a token cut from each"])
            }
        }

        @Test("all: one report of all benchmarks")
        func all() async throws {
            let object = try await run("all", "--context", "128,256", "--count", "32")
            let kinds = try results(object).map {
                ($0["parameters"] as? [String: Any])?["benchmark"] as? String ?? ""
            }
            let decodes = kinds.filter { $0 == "decode" }
            #expect(decodes.count == 24, "five of shape and dtype, two contexts; a window; latent: two thread counts")
            #expect(Set(kinds) == ["decode", "prefill", "append", "step"])
        }

        @Test(
            "every command has help with an example of itself",
            arguments: [
                [], ["kernels"], ["kernels", "decode"], ["kernels", "prefill"], ["cache"], ["cache", "append"],
                ["cache", "commit"], ["cache", "open"], ["step"], ["transfer"],
                ["forks"], ["join"], ["directory"], ["all"],
            ])
        func help(command: [String]) async throws {
            let outcome = try await tool.run(command + ["--help"])
            #expect(outcome.status == 0 && outcome.data.contains("EXAMPLE\n"))
            #expect(outcome.data.contains((["dcp-bench"] + command).joined(separator: " ")))
        }

        struct Refusal: Sendable {
            var status: Int32 = 64
            var arguments: String
            var words: [String]
        }

        static let refusals: [Refusal] = [
            Refusal(arguments: "kernels decode --shape 32x8", words: ["32x8", "llama-8b"]),
            Refusal(status: 65, arguments: "kernels decode --shape 3x2x64", words: ["2 KV heads", "3 query heads"]),
            Refusal(arguments: "kernels decode --context 0", words: ["\"0\"", "--context"]),
            Refusal(arguments: "kernels decode --context 32k,x", words: ["\"x\"", "--context", "32k"]),
            Refusal(arguments: "kernels prefill --count 1,2", words: ["--count", "one number"]),
            Refusal(arguments: "kernels decode --kv-format int4", words: ["int4", "int8 or fp8"]),
            Refusal(arguments: "kernels decode --queries f16", words: ["f16", "bf16 or f32"]),
            Refusal(arguments: "kernels decode --threads 0", words: ["\"0\"", "--threads"]),
            Refusal(arguments: "kernels decode --runs 0", words: ["0 runs"]),
            Refusal(arguments: "kernels decode --dir /nonexistent/x", words: ["/nonexistent/x", "--dir"]),
            Refusal(arguments: "kernels decode --plot /nonexistent/p.svg", words: ["/nonexistent/p.svg", "--plot"]),
            Refusal(arguments: "kernels decode --plot /tmp", words: ["/tmp", "directory", "--plot"]),
            Refusal(arguments: "kernels decode --plot /dev/null", words: ["/dev/null", "--plot"]),
            Refusal(arguments: "kernels decode --plot /etc/passwd/p.svg", words: ["/etc/passwd", "--plot"]),
            Refusal(arguments: "cache append --durability soon", words: ["soon", "everysec"]),
            Refusal(arguments: "cache append --rows f8", words: ["f8", "--rows"]),
            Refusal(arguments: "step --ranks 0", words: ["0 ranks"]),
            Refusal(arguments: "step --exchange ring", words: ["ring", "a2a or ag-rs"]),
            Refusal(arguments: "step --clients 0", words: ["--clients 0", "1...256"]),
            Refusal(arguments: "step --tcp --tls", words: ["--tcp and --tls"]),
            Refusal(arguments: "step --query all", words: ["all", "auto, gather or replicate"]),
            Refusal(arguments: "step --python python3 --batch 2", words: ["--python", "one client"]),
            Refusal(arguments: "bogus", words: ["bogus"]),
        ]

        @Test(
            "impossible measurements are refused before any is made, with the value and the remedy", arguments: refusals
        )
        func refused(refusal: Refusal) async throws {
            let arguments = refusal.arguments.split(separator: " ").map(String.init)
            try await tool.fails(refusal.status, saying: refusal.words, arguments)
        }

        @Test("a format that a shape cannot have is refused before the first is measured")
        func impossiblePair() async throws {
            let outcome = try await tool.run(
                "kernels", "decode", "--latent", "--shape", "16x1x48x32", "--kv-format", "bf16,int8", "--context",
                "300", "--runs", "2", "--dir", directory.path)
            #expect(outcome.status == 65 && !outcome.messages.contains("decode 16x1x48x32"), "\(outcome.messages)")
        }

        @Test("who does not read the messages to their end leaves nothing behind")
        func unread() async throws {
            var shell = CommandLineTool(executable: "/bin/bash")
            shell.environment["bench"] = Binaries.directory + "/dcp-bench"
            shell.environment["dir"] = directory.path
            let outcome = try await shell.run(
                "-c",
                """
                $bench kernels decode --shape 4x2x16 --context 1k,2k,4k,8k --runs 9 --dir $dir 2>&1 >/dev/null \
                    | head -n 1; exit ${PIPESTATUS[0]}
                """)
            #expect(outcome.status == 0 && !outcome.data.isEmpty, "\(outcome)")
            #expect(try FileManager.default.contentsOfDirectory(atPath: directory.path).isEmpty)
        }

        @Test("kernels that do not exist are refused with those that do")
        func unknownKernels() async throws {
            let tool = CommandLineTool(environment: ["DCP_KERNELS": "neon"], executable: "dcp-bench")
            try await tool.fails(64, saying: ["neon", "scalar"], ["kernels", "decode", "--context", "1k"])
        }

        @Test(
            "an interrupted measurement ends with 130 and leaves nothing behind", arguments: [SIGINT, SIGTERM, SIGHUP])
        func interrupted(by number: Int32) async throws {
            var action = sigaction()
            #expect(sigaction(number, nil, &action) == 0)
            let handler = unsafeBitCast(action.__sigaction_handler.sa_handler, to: Int.self)
            // Under nohup the tests ignore SIGHUP, and so does what they start.
            if handler == unsafeBitCast(SIG_IGN, to: Int.self) { return }
            let path = directory.path
            let (status, messages) = try await onOwnThread {
                let process = Process()
                process.executableURL = URL(filePath: Binaries.directory + "/dcp-bench")
                process.arguments = ["kernels", "decode", "--context", "4k", "--runs", "100000", "--dir", path]
                let errors = Pipe()
                process.standardInput = FileHandle.nullDevice
                process.standardOutput = FileHandle.nullDevice
                process.standardError = errors
                try process.run()
                var text = ""
                // It measures when it says so.
                while !text.contains("decode 32x8x128") {
                    let data = errors.fileHandleForReading.availableData
                    guard !data.isEmpty else { break }
                    text += String(decoding: data, as: UTF8.self)
                }
                kill(process.processIdentifier, number)
                text += String(
                    decoding: try errors.fileHandleForReading.readToEnd() ?? Data(), as: UTF8.self)
                process.waitUntilExit()
                return (process.terminationStatus, text)
            }
            #expect(status == 130 && messages.contains("interrupted"), "\(messages)")
            #expect(try FileManager.default.contentsOfDirectory(atPath: path).isEmpty)
        }
    }
}
