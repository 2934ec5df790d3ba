// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPClient
import DCPConsole
import DCPCore
import DCPWire

struct Models: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "model", abstract: "Add, list, show and remove models.",
        discussion: """
            A model's layers may differ in what a query sees (all tokens, or a window of the last ones), heads and \
            dimensions, scale and soft cap, sinks, and whether values are part of the keys.

            EXAMPLE
              dcpctl model add gemma --config gemma-3/config.json --revision 2024-06-27
              dcpctl model list
            """,
        subcommands: [Add.self, List.self, Show.self, Remove.self])

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
            abstract: "Show a model: the attention of its layers, and what they store.",
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
                        .unknownModel, "There is no model `\(name)`; `dcpctl model list` shows the registered models.")
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
