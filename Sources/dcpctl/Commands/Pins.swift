// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPClient
import DCPConsole
import DCPCore
import DCPWire

extension Sequences {
    struct Pin: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Keep a sequence from being evicted.",
            discussion: """
                When a store is full, the coordinator closes kept sequences (sequence close --keep), and with --evict \
                lru also the least recently used ones. A pinned sequence stays until it is unpinned or closed.

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
            abstract: "Allow a sequence to be evicted again.",
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

extension Sequences {
    struct Retain: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Set how long a sequence stays: its priority and its time to live.",
            discussion: """
                Sequences with a lower priority are evicted first. A sequence that was not used for its time to live \
                is closed, unless it is pinned. Kept sequences (sequence close --keep) are evicted before others.

                EXAMPLE
                  dcpctl sequence retain chat-1 --priority 10
                  dcpctl sequence retain chat-2 --ttl 86400
                """)

        @Argument(help: "The sequence's name.")
        var name: String
        @Option(
            parsing: .unconditional,
            help: ArgumentHelp("From -128 (evicted first) to 127. Default: 0.", valueName: "number"))
        var priority: Int8?
        @Option(
            parsing: .unconditional,
            help: ArgumentHelp(
                "Close the sequence after this many seconds without use; 0 for never.", valueName: "seconds"))
        var ttl: UInt32?
        @OptionGroup var client: ClientOptions

        func validate() throws {
            guard priority != nil || ttl != nil else { throw ValidationError("Give --priority, --ttl or both.") }
        }

        func run() async throws {
            try await client.execute { cluster in
                let retention = try await cluster.retain(
                    name, priority: priority, timeToLive: ttl.map { .seconds(Int($0)) })
                let view = RetentionView(
                    sequence: name, priority: retention.priority, timeToLiveSeconds: retention.timeToLive)
                try client.output.print(view) {
                    "Sequence `\(name)` has priority \(retention.priority) and "
                        + (retention.timeToLive == 0
                            ? "no time to live." : "a time to live of \(retention.timeToLive) s.")
                }
            }
        }
    }
}

struct RetentionView: Encodable {
    var sequence: String
    var priority: Int8
    var timeToLiveSeconds: UInt32
}

struct PinView: Encodable {
    var sequence: String
    var pinned: Bool
}
