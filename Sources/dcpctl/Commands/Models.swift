import ArgumentParser
import DCPClient
import DCPConsole
import DCPCore
import DCPWire

struct Models: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "model", abstract: "List, show and remove models.",
        discussion: """
            EXAMPLE
              dcpctl model list
            """,
        subcommands: [List.self, Show.self, Remove.self])

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List the registered models.",
            discussion: """
                EXAMPLE
                  dcpctl model list --json
                """)

        @OptionGroup var client: ClientOptions

        func run() async throws {
            try await client.execute { cluster in
                let views = try await cluster.models().map { ModelView($0) }
                try client.output.print(views) { ModelView.table(views) }
            }
        }
    }

    struct Show: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show one model: its layers' attention, and what they keep.",
            discussion: """
                EXAMPLE
                  dcpctl model show smollm2
                """)

        @Argument(help: "The model's name.")
        var name: String
        @OptionGroup var client: ClientOptions

        func run() async throws {
            try await client.execute { cluster in
                guard let record = try await cluster.model(named: name) else {
                    throw ServiceError(
                        .unknownModel, "No model is called `\(name)`; `dcpctl model list` shows those there are.")
                }
                let view = ModelView(record)
                try client.output.print(view) { view.text }
            }
        }
    }

    struct Remove: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Remove a model that no sequence uses.",
            discussion: """
                EXAMPLE
                  dcpctl model remove smollm2
                """)

        @Argument(help: "The model's name.")
        var name: String
        @OptionGroup var client: ClientOptions

        func run() async throws {
            try await client.execute { cluster in
                try await cluster.removeModel(name)
                try client.output.print(["removed": name]) { "Removed model `\(name)`." }
            }
        }
    }
}

struct ModelView: Encodable {
    var id: UInt32
    var name: String
    var revision: String?
    var kvDtype: String
    var layers: Int
    /// The order of kinds.
    var pattern: String
    var kinds: [Kind]

    struct Kind: Encodable {
        /// First and last of each run.
        var layers: [[Int]]
        var queryHeads: Int
        var kvHeads: Int
        var keyDim: Int
        var valueDim: Int
        /// Whether they are the first dimensions of the keys.
        var hasLeadingValues: Bool
        var scale: Float
        var softcap: Float?
        var window: Int?
        var hasSinks: Bool
        var text: String

        init(_ index: Int, of model: ModelDescription) {
            let kind = model.kinds[index]
            layers = model.runs.filter { $0.kind == index }.map { [$0.layers.lowerBound, $0.layers.upperBound - 1] }
            queryHeads = kind.queryHeads
            kvHeads = kind.kvHeads
            keyDim = kind.keyDim
            valueDim = kind.valueDim
            hasLeadingValues = kind.ownValueDim == 0
            scale = kind.scale
            softcap = kind.softcap
            if case .window(let tokens) = kind.visibility { window = tokens }
            hasSinks = kind.hasSinks
            text = model.kindLines[index]
        }
    }

    init(_ record: ModelRecord) {
        let model = record.description
        id = record.id.value
        name = record.name
        revision = model.revision
        kvDtype = model.kvDataType.name
        layers = model.layers
        pattern = model.pattern
        kinds = model.kinds.indices.map { Kind($0, of: model) }
    }

    static func table(_ views: [ModelView]) -> String {
        guard !views.isEmpty else { return "No models." }
        var table = TextTable("MODEL", "REVISION", "KV DTYPE", "LAYERS", "KINDS")
        for view in views {
            table.append([
                view.name, view.revision ?? "-", view.kvDtype, "\(view.layers)", view.pattern,
            ])
        }
        return table.rendered()
    }

    /// One model, a line for each kind.
    var text: String {
        let title = "\(name): \(layers) \(layers == 1 ? "layer" : "layers"), KV cache of \(kvDtype)"
        return ([title + (revision.map { ", revision \($0)" } ?? ""), "  \(pattern)"] + kinds.map { "  \($0.text)" })
            .joined(separator: "\n")
    }
}
