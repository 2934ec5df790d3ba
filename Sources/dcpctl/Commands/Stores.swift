// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPClient
import DCPConsole
import DCPCore
import DCPWire

struct Stores: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "store", abstract: "List the ranks' stores; accept another in place of a lost one.",
        discussion: """
            The coordinator records the store of each rank and its last durable change. It refuses another store or an \
            older copy, and the rank exits with 78: committed tokens are given up only when an operator confirms it.

            EXAMPLE
              dcpctl store list
              dcpctl store replace 2
              dcpctl store accept-older 2
            """,
        subcommands: [List.self, Replace.self, AcceptOlder.self])

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List the stores that the coordinator has recorded, and whether their ranks are registered.",
            discussion: """
                CHANGE is the last durable change: a store below it is an older copy.

                EXAMPLE
                  dcpctl store list
                """)

        @OptionGroup var client: ClientOptions

        func run() async throws {
            try await client.execute { cluster in
                let views = try await cluster.stores().map { StoreView($0) }
                try client.output.print(views) {
                    var table = TextTable("RANK", "STORE", "CHANGE", "HERE")
                    for view in views {
                        table.append(["\(view.rank)", view.store, "\(view.change)", view.isHere ? "yes" : "no"])
                    }
                    return table.rendered()
                }
            }
        }
    }

    struct Replace: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Give up a rank's store that is lost for good, and accept an empty one in its place.",
            discussion: """
                Every sequence is cut to 0 tokens, because attention needs every rank's part. If there is a copy of \
                the store, restore that instead. The command says what to do, and waits until the rank has registered \
                with its new store and the cluster is ready.

                EXAMPLE
                  dcpctl store replace 2
                  dcpctl store replace 2 --yes --wait 10m
                """)

        @OptionGroup var options: StoreLossOptions

        func run() async throws {
            try await options.run { known in
                StoreLossPlan(
                    loss: .store(known.store),
                    consequence:
                        "Its tokens are given up: every sequence is cut to 0 tokens and must be prefilled again.",
                    next:
                        "Make sure that the store's directory is empty (the old one may be moved away), and start the rank"
                )
            }
        }
    }

    struct AcceptOlder: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Accept an older copy of a rank's store whose latest changes are lost for good.",
            discussion: """
                Every sequence is cut to what the copy holds. The command says what to do, and waits until the rank \
                has registered with the copy and the cluster is ready.

                EXAMPLE
                  dcpctl store accept-older 2
                """)

        @OptionGroup var options: StoreLossOptions

        func run() async throws {
            try await options.run { known in
                StoreLossPlan(
                    loss: .changes(known.mark),
                    consequence:
                        "The changes after the older copy are given up: every sequence is cut to what the copy holds.",
                    next: "Replace the store by the copy, and start the rank")
            }
        }
    }
}

struct StoreView: Encodable {
    var rank: Int
    var store: String
    var change: UInt64
    var isHere: Bool

    init(_ store: RecordedStore) {
        rank = Int(store.rank.value)
        self.store = "\(store.store)"
        change = store.mark
        isHere = store.isHere
    }
}
