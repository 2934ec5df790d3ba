// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPBench
import DCPCore
import DCPWire

struct StepCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "step",
        abstract: "Whole decode steps through a local cluster: latency, and where it goes.",
        discussion: """
            Starts a coordinator and ranks as real daemons, fills the ranks' stores, and sends steps that each \
            continue where the last one ended. The ranks time their own parts: attention, kernels, the waits for \
            queries and for partials, and the merge. --threads applies to each rank. The overhead is the time of a \
            step without the slower rank's kernels; it is shown beside a ping-pong of the same bytes over a Unix \
            socket.

            EXAMPLE
              dcp-bench step
              dcp-bench step --ranks 2 --context 32k,128k --shape 64x8x128 --json
              dcp-bench step --context 1k --python .build/python/bin/python
              dcp-bench step --context 4k --layers 30 --batch 8 --clients 4 --commit --tls
              dcp-bench step --context 12k --beside-prefill 2048
              dcp-bench step --context 32k --forks 16 --peaked
              dcp-bench step --context 4k --count 512 --shared-memory off
            """)

    @OptionGroup var shape: ShapeOptions

    @Option(help: "How many ranks.")
    var ranks: Int = 2

    @Option(
        help: ArgumentHelp(
            "Tokens in the cache before the steps; separate several by commas.", valueName: "counts"))
    var context: String = "128k"

    @Option(help: ArgumentHelp("Tokens of a step.", valueName: "count"))
    var count: String = "1"

    @Option(help: ArgumentHelp("Queries as bf16 or f32, also on the wire.", valueName: "kind"))
    var queries: String = "bf16"

    @Option(help: "How ranks exchange partial results: a2a or ag-rs.")
    var exchange: String = Exchange.allToAll.name

    @Option(help: "How ranks get the queries: gather, replicate or auto.")
    var query: String = "auto"

    @Option(help: ArgumentHelp("Concurrent clients.", valueName: "count"))
    var clients: Int = 1

    @Option(help: ArgumentHelp("Sequences in a step, all of them forks except one.", valueName: "count"))
    var batch: Int = 1

    @Option(
        help: ArgumentHelp(
            "Forks in a step, alternating with as many steps of one fork each.", valueName: "count"))
    var forks: Int?

    @Flag(help: "Use scores as peaked as those of a trained model.")
    var peaked = false

    @Option(help: ArgumentHelp("Layers of the model; each token takes one step per layer.", valueName: "count"))
    var layers: Int = 1

    @Option(
        help: ArgumentHelp(
            "Measure short steps while another client sends prefills of this many tokens over --context.",
            valueName: "count"))
    var besidePrefill: String?

    @Flag(help: "Commit each token.")
    var commit = false

    @Flag(help: "Connect by TCP on loopback instead of Unix sockets.")
    var tcp = false

    @Flag(help: "Connect by TLS on loopback, with temporary certificates.")
    var tls = false

    @Option(
        help: ArgumentHelp(
            "Whether ranks exchange tensors through shared memory: on or off.",
            valueName: "setting"))
    var sharedMemory: String = "on"

    @Option(
        help: ArgumentHelp(
            "Also measure the Python client, alternately, with this interpreter; it needs dcp_attention.",
            valueName: "path"))
    var python: String?

    @OptionGroup var options: BenchOptions

    func validate() throws {
        guard (1...64).contains(ranks) else {
            throw ValidationError("\(ranks) ranks are outside 1...64; correct --ranks.")
        }
        for (name, value, limit) in [
            ("--clients", clients, 256), ("--batch", batch, 1024), ("--forks", forks ?? 1, 1024),
            ("--layers", layers, 256),
        ] where !(1...limit).contains(value) {
            throw ValidationError("\(name) \(value) is outside 1...\(limit); correct it.")
        }
        guard forks == nil || (clients, batch) == (1, 1) && besidePrefill == nil && python == nil else {
            throw ValidationError("--forks measures one client and excludes --batch, --python and --beside-prefill.")
        }
        guard !(tcp && tls) else { throw ValidationError("--tls implies TCP; give only one of --tcp and --tls.") }
        guard python == nil || besidePrefill == nil && (clients, batch, layers) == (1, 1, 1) && !tls && !commit else {
            throw ValidationError(
                "--python measures one client, sequence and layer, and excludes --commit, --tls and --beside-prefill.")
        }
        guard ["on", "off"].contains(sharedMemory) else {
            throw ValidationError("`\(sharedMemory)` is not a setting of --shared-memory; use on or off.")
        }
        guard StepRequest.QueryMode.choices[query] != nil else {
            throw ValidationError("`\(query)` is not a query mode; use auto, gather or replicate.")
        }
        guard Exchange(name: exchange) != nil else {
            throw ValidationError("`\(exchange)` is not an exchange; use a2a or ag-rs.")
        }
    }

    private func load() throws(ServiceError) -> StepLoad {
        StepLoad(
            clients: clients, batch: forks ?? batch, comparesAlone: forks != nil, layers: layers, commits: commit,
            connection: tls ? .tls : tcp ? .tcp : .unix, sharesMemory: sharedMemory == "on",
            queryMode: StepRequest.QueryMode.choices[query] ?? nil,
            prefill: try besidePrefill.map { (text) throws(ServiceError) in
                try Lists.count(text, option: "--beside-prefill", in: 1...8192)
            })
    }

    func run() async throws {
        try await execute {
            let load = try load()
            let benchmark = StepBenchmark(
                shapes: try shape.shapes(), formats: try shape.formats(),
                contexts: try Lists.counts(context, option: "--context", in: ShapeOptions.contexts),
                threads: try shape.threadCounts(), ranks: ranks,
                count: try Lists.count(count, option: "--count", in: 1...1024), queries: try QueryKind(option: queries),
                exchange: Exchange(name: exchange) ?? .allToAll, load: load, isPeaked: peaked, python: python)
            var parameters = shape.parameters
            parameters["ranks"] = "\(ranks)"
            parameters["context"] = context
            parameters["count"] = count
            parameters["queries"] = queries
            parameters["exchange"] = exchange
            parameters["query"] = query
            parameters["clients"] = "\(clients)"
            parameters["batch"] = "\(batch)"
            parameters["forks"] = forks.map { "\($0)" }
            parameters["peaked"] = "\(peaked)"
            parameters["layers"] = "\(layers)"
            parameters["beside_prefill"] = besidePrefill
            parameters["commit"] = "\(commit)"
            parameters["connection"] = load.connection.rawValue
            parameters["shared_memory"] = sharedMemory
            parameters["python"] = python
            try await options.execute("step", parameters, notMeasured: StepBenchmark.notMeasured) { bench in
                try await benchmark.run(bench)
            }
        }
    }
}
