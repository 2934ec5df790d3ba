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
            abstract: "Show one model's shape.",
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
                try client.output.print(view) { ModelView.table([view]) }
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
    var layers: Int
    var queryHeads: Int
    var kvHeads: Int
    var keyDim: Int
    var valueDim: Int
    var scale: Float
    var softcap: Float?
    var kvDtype: String

    init(_ record: ModelRecord) {
        id = record.id.value
        name = record.name
        layers = record.shape.layers
        queryHeads = record.shape.queryHeads
        kvHeads = record.shape.kvHeads
        keyDim = record.shape.keyDim
        valueDim = record.shape.valueDim
        scale = record.shape.scale
        softcap = record.shape.softcap
        kvDtype = record.shape.kvDataType.name
    }

    static func table(_ views: [ModelView]) -> String {
        guard !views.isEmpty else { return "No models." }
        var table = TextTable(
            "MODEL", "LAYERS", "Q HEADS", "KV HEADS", "KEY DIM", "VALUE DIM", "SCALE", "SOFT CAP", "KV DTYPE")
        for view in views {
            table.append([
                view.name, "\(view.layers)", "\(view.queryHeads)", "\(view.kvHeads)", "\(view.keyDim)",
                "\(view.valueDim)", "\(view.scale)", view.softcap.map { "\($0)" } ?? "-", view.kvDtype,
            ])
        }
        return table.rendered()
    }
}
