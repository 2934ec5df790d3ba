// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPClient
import DCPConsole
import DCPCore
import DCPSafetensors
import DCPWire

extension Sequences {
    struct Match: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Find the stored sequence that shares the longest prefix with some token ids.",
            discussion: """
                The search covers the tokens that every rank has committed, in sequences of the given model and scope. \
                Fork the sequence at the length found, and send the remaining tokens.

                EXAMPLE
                  dcpctl sequence match --ids 1,15043,3186 --model llama
                  dcpctl sequence match prompt.safetensors --model llama --scope tenant-7 --json
                """)

        @Argument(help: "A safetensors file with a tensor token_ids, U32 [tokens].")
        var file: String?
        @Option(help: ArgumentHelp("The ids, separated by commas, instead of a file.", valueName: "ids"))
        var ids: String?
        @Option(help: ArgumentHelp("The model's name.", valueName: "name"))
        var model: String
        @Option(
            help: ArgumentHelp("The revision that the model must have. Default: any.", valueName: "text"))
        var revision: String?
        @Option(
            help: ArgumentHelp(
                "The scope of the sequences. Default: sequences without a scope.", valueName: "text"))
        var scope: String = ""
        @OptionGroup var client: ClientOptions

        func validate() throws {
            guard (file == nil) != (ids == nil) else {
                throw ValidationError("Give the ids either in a file or with --ids.")
            }
            if ids != nil { _ = try listedIDs() }
        }

        private func listedIDs() throws -> [UInt32] {
            try (ids ?? "").split(separator: ",", omittingEmptySubsequences: false).map { text in
                guard let id = UInt32(text.trimmingPrefix(" ")) else {
                    throw ValidationError("\"\(text)\" in --ids is not a number in 0...\(UInt32.max); correct it.")
                }
                return id
            }
        }

        private func wantedIDs() throws -> [UInt32] {
            guard let file else { return try listedIDs() }
            guard let ids = try SafetensorsFile.open(file).tokenIDs() else {
                throw ServiceError(
                    .invalidRequest, "\(file) has no tensor token_ids; write one of U32 [tokens], or use --ids.")
            }
            return ids
        }

        func run() async throws {
            try await client.execute { cluster in
                let ids = try wantedIDs()
                guard let known = try await cluster.model(named: model) else {
                    throw ServiceError(
                        .unknownModel, "Model `\(model)` is not registered; see `dcpctl model list`.")
                }
                let match = try await cluster.match(model: known, revision: revision, scope: scope, ids: ids)
                let all = match == nil ? [] : try await cluster.sequences()
                let name = all.first { $0.record.id == match?.sequence }?.record.name
                let view = MatchView(
                    sequence: name, id: match?.sequence.value, length: match?.length ?? 0, of: ids.count)
                try client.output.print(view) { view.text }
            }
        }
    }
}

struct MatchView: Encodable {
    /// nil when nothing matches, or the sequence has been closed since.
    var sequence: String?
    var id: UInt64?
    /// Tokens that need not be prefilled.
    var length: Int
    var of: Int

    var text: String {
        guard let id else { return "No sequence begins with the first of the \(of) ids." }
        return "Sequence \(sequence.map { "`\($0)`" } ?? "#\(id)") begins with the first \(length) of the \(of) ids."
    }
}
