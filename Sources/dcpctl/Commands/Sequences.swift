// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPClient
import DCPConsole
import DCPCore
import DCPWire

struct Sequences: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sequence",
        abstract: "List, show, match, truncate, fork, pin, retain, close, export and import sequences.",
        discussion: """
            EXAMPLE
              dcpctl sequence list
              dcpctl sequence fork chat-1 chat-1-retry 4096
            """,
        subcommands: [
            List.self, Show.self, Match.self, Truncate.self, Fork.self, Close.self, Pin.self, Unpin.self, Retain.self,
            Export.self,
            Import.self,
        ])

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List the sequences and their committed lengths.",
            discussion: """
                --all includes the sequences of canaries, which health checks use.

                EXAMPLE
                  dcpctl sequence list
                  dcpctl sequence list --prefix tenant-7/ --limit 100
                """)

        @Flag(help: "Include the sequences of canaries.")
        var all = false

        @Option(help: "Only sequences whose names begin with this.")
        var prefix: String = ""

        @Option(
            parsing: .unconditional,
            help: ArgumentHelp("At most this many, the oldest first. Default: all.", valueName: "count"))
        var limit: Int?

        @OptionGroup var client: ClientOptions

        func validate() throws {
            guard limit ?? 1 > 0 else {
                throw ValidationError("A limit of \(limit ?? 0) lists nothing; correct --limit.")
            }
        }

        func run() async throws {
            try await client.execute { cluster in
                let sequences = try await cluster.sequences(prefix: prefix, limit: limit) {
                    all || !$0.isCanary
                }
                // Only ranks know lengths; the names are available even while a rank is missing.
                var progress: [SequenceID: SequenceProgress] = [:]
                if try await cluster.topology().phase == .ready {
                    progress = try await cluster.statuses(of: sequences)
                }
                let views = sequences.map { SequenceView($0, progress[$0.record.id]) }
                try client.output.print(views) { SequenceView.table(views) }
            }
        }
    }

    struct Show: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show a sequence: its lengths by layer and its tokens by rank.",
            discussion: """
                EXAMPLE
                  dcpctl sequence show chat-1
                """)

        @Argument(help: "The sequence's name.")
        var name: String
        @OptionGroup var client: ClientOptions

        func run() async throws {
            try await client.execute { cluster in
                let sequence = try await cluster.openSequence(name, model: nil)
                let view = SequenceView(sequence, try await cluster.status(of: sequence))
                try client.output.print(view) { view.text }
            }
        }
    }

    struct Truncate: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Cut a sequence to its first LENGTH tokens; uncommitted tokens are dropped.",
            discussion: """
                EXAMPLE
                  dcpctl sequence truncate chat-1 4096
                """)

        @Argument(help: "The sequence's name.")
        var name: String
        @Argument(help: "How many tokens are kept.")
        var length: Int
        @OptionGroup var client: ClientOptions

        func validate() throws { try checkLength(length) }

        func run() async throws {
            try await client.execute { cluster in
                try await cluster.cut(name, to: length)
                try client.output.print(LengthView(sequence: name, length: length)) {
                    "Sequence `\(name)` has \(length) tokens."
                }
            }
        }
    }

    struct Fork: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Create sequence NEW from the first LENGTH tokens of NAME; the two share blocks.",
            discussion: """
                EXAMPLE
                  dcpctl sequence fork chat-1 chat-1-retry 4096
                  dcpctl sequence fork chat-1 chat-1-retry 4096 --revision 2024-06-27
                """)

        @Argument(help: "The sequence to fork.")
        var name: String
        @Argument(help: "The new sequence's name.")
        var new: String
        @Argument(help: "How many tokens the new sequence begins with, committed or not.")
        var length: Int
        @Option(
            help: ArgumentHelp(
                "The revision that the model must have. Default: any.",
                valueName: "text"))
        var revision: String?
        @OptionGroup var client: ClientOptions

        func validate() throws { try checkLength(length) }

        func run() async throws {
            try await client.execute { cluster in
                try await cluster.fork(name, as: new, length: length, revision: revision)
                try client.output.print(LengthView(sequence: new, length: length)) {
                    "Sequence `\(new)` has the first \(length) tokens of `\(name)`."
                }
            }
        }
    }

    struct Close: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Delete a sequence, or keep it for later matches until its room is needed.",
            discussion: """
                Shared blocks stay until the last fork that uses them is closed.

                EXAMPLE
                  dcpctl sequence close chat-1
                  dcpctl sequence close chat-2 --keep
                """)

        @Argument(help: "The sequence's name.")
        var name: String
        @Flag(
            help: """
                Keep it for later matches by its tokens. It is evicted first when a store is full, whatever \
                --evict says.
                """)
        var keep = false
        @OptionGroup var client: ClientOptions

        func run() async throws {
            try await client.execute { cluster in
                try await cluster.closeSequence(name, keep: keep)
                try client.output.print([keep ? "kept" : "closed": name]) {
                    keep ? "Sequence `\(name)` stays until its room is needed." : "Closed sequence `\(name)`."
                }
            }
        }
    }
}

private func checkLength(_ length: Int) throws {
    guard (0...WireReader.lengthMax).contains(length) else {
        throw ValidationError("A length of \(length) tokens is outside 0...\(WireReader.lengthMax); correct it.")
    }
}

struct LengthView: Encodable {
    var sequence: String
    var length: Int
}

struct SequenceView: Encodable {
    var id: UInt64
    var name: String
    var model: String
    var scope: String
    var pinned: Bool
    var kept: Bool
    var priority: Int8
    /// 0 for ever.
    var timeToLiveSeconds: UInt32
    var committedLength: Int?
    var layerLengths: [Int]?
    var tokensByRank: [Int]?

    init(_ sequence: SequenceHandle, _ progress: SequenceProgress?) {
        id = sequence.record.id.value
        name = sequence.record.name
        model = sequence.model.name
        scope = sequence.record.scope
        pinned = sequence.retention.isPinned
        kept = sequence.retention.isKept
        priority = sequence.retention.priority
        timeToLiveSeconds = sequence.retention.timeToLive
        committedLength = progress?.committedLength
        layerLengths = progress?.layerLengths
        tokensByRank = progress.map { $0.localTokens.sorted { $0.key < $1.key }.map(\.value) }
    }

    static func table(_ views: [SequenceView]) -> String {
        guard !views.isEmpty else { return "No sequences." }
        var table = TextTable("SEQUENCE", "MODEL", "COMMITTED", "UNCOMMITTED", "RETENTION")
        for view in views {
            let ahead = view.layerLengths.flatMap { $0.max() }.flatMap { longest in
                view.committedLength.map { longest - $0 }
            }
            table.append([
                view.name, view.model, view.committedLength.map { "\($0)" } ?? "-", ahead.map { "\($0)" } ?? "-",
                view.retention,
            ])
        }
        return table.rendered()
    }

    private var retention: String {
        let parts = [
            pinned ? "pinned" : nil, kept ? "kept" : nil, priority == 0 ? nil : "priority \(priority)",
            timeToLiveSeconds == 0 ? nil : "unused \(timeToLiveSeconds) s",
        ]
        let said = parts.compactMap(\.self)
        return said.isEmpty ? "-" : said.joined(separator: ", ")
    }

    var text: String {
        let lengths = (layerLengths ?? []).enumerated().map { "layer \($0): \($1)" }.joined(separator: ", ")
        let ranks = (tokensByRank ?? []).enumerated().map { "rank \($0): \($1)" }.joined(separator: ", ")
        return """
            Sequence \(name) of model \(model)
            Committed: \(committedLength ?? 0) tokens
            Lengths:   \(lengths)
            Owned:     \(ranks)
            """
    }
}
