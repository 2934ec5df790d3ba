import ArgumentParser
import DCPClient
import DCPConsole
import DCPCore
import DCPWire

struct Stores: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "store", abstract: "List the ranks' stores; take another in the place of one that is lost.",
        discussion: """
            The coordinator knows the store of each rank, and how far it had come. Another store, or an older copy, is refused, and the \
            rank ends with 78: nobody's tokens are given up unless somebody says so.

            EXAMPLE
              dcpctl store list
              dcpctl store replace 2
              dcpctl store accept-older 2
            """,
        subcommands: [List.self, Replace.self, AcceptOlder.self])

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List the stores that the coordinator has recorded, and whether their ranks are here.",
            discussion: """
                CHANGE is the last change that is known to be on the disk: a store that comes below it is an older copy.

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
            abstract: "Give up a rank's store, which is lost for good, and take an empty one in its place.",
            discussion: """
                Every sequence is cut to 0 tokens, since attention needs every rank's part: export what can be exported \
                elsewhere before, restore a copy of the store if there is one. The command says what is to be done meanwhile, \
                and waits until the rank has come with its new store and the cluster is ready.

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
                        "Its tokens are given up: every sequence is cut to 0 tokens, and has to be prefilled again.",
                    next:
                        "Make sure that the store's directory is empty (the old one may be moved away), and start the rank"
                )
            }
        }
    }

    struct AcceptOlder: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Take an older copy of a rank's store, whose latest changes are lost for good.",
            discussion: """
                Every sequence is cut to what the copy holds. The command says what is to be done meanwhile, and waits until \
                the rank has come with the copy and the cluster is ready.

                EXAMPLE
                  dcpctl store accept-older 2
                """)

        @OptionGroup var options: StoreLossOptions

        func run() async throws {
            try await options.run { known in
                StoreLossPlan(
                    loss: .changes(known.mark),
                    consequence:
                        "What it had beyond the older copy is given up: every sequence is cut to what that holds.",
                    next: "Put the copy in the place of the store, and start the rank")
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
