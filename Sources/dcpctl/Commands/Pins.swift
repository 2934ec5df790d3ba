import ArgumentParser
import DCPClient
import DCPConsole
import DCPCore

extension Sequences {
    struct Pin: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Keep a sequence from being evicted.",
            discussion: """
                A coordinator with --evict lru closes the least recently used sequence when a store is full. A pinned one \
                stays, until it is unpinned or closed.

                EXAMPLE
                  dcpctl sequence pin chat-1
                """)

        @Argument(help: "The sequence's name.")
        var name: String
        @OptionGroup var client: ClientOptions

        func run() async throws {
            try await client.execute { cluster in
                try await cluster.setPinned(true, name)
                try client.output.print(PinView(sequence: name, pinned: true)) { "Pinned sequence `\(name)`." }
            }
        }
    }

    struct Unpin: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Let a sequence be evicted again.",
            discussion: """
                EXAMPLE
                  dcpctl sequence unpin chat-1
                """)

        @Argument(help: "The sequence's name.")
        var name: String
        @OptionGroup var client: ClientOptions

        func run() async throws {
            try await client.execute { cluster in
                try await cluster.setPinned(false, name)
                try client.output.print(PinView(sequence: name, pinned: false)) { "Unpinned sequence `\(name)`." }
            }
        }
    }
}

struct PinView: Encodable {
    var sequence: String
    var pinned: Bool
}
