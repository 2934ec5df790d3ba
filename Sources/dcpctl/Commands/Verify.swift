// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPCache
import DCPClient
import DCPConsole
import DCPCore
import DCPWire
import Glibc

struct Verify: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Check every checksum, key and count in the ranks' stores; truncate damaged sequences.",
        discussion: """
            Without --store all ranks check their stores in the background while they serve steps; they stop serving \
            any token found damaged. --repair then truncates each damaged sequence to its last good position on all \
            ranks. Exits with 74 if there is damage that was not repaired, and with 0 otherwise.

            With --store the command checks the store of a stopped rank without changing it.

            EXAMPLE
              dcpctl verify
              dcpctl verify --repair --yes
              dcpctl verify --store /var/lib/dcp/rank-0
            """)

    @Option(help: ArgumentHelp("Check the store of a stopped rank in this directory.", valueName: "directory"))
    var store: String?

    @Option(help: ArgumentHelp("Check this sequence only.", valueName: "name"))
    var sequence: String?

    @Flag(help: "Truncate damaged sequences to their last good position on all ranks.")
    var repair = false

    @Flag(help: "Repair without asking.")
    var yes = false

    @OptionGroup var client: ClientOptions

    func validate() throws {
        if store != nil, repair {
            throw ValidationError(
                "--repair must truncate on all ranks, but --store gives only one; start the rank and run `dcpctl "
                    + "verify --repair` without --store.")
        }
        if repair, !yes, isatty(STDIN_FILENO) == 0 {
            throw ValidationError("--repair asks before it truncates, but standard input is not a terminal; add --yes.")
        }
        if yes, !repair { throw ValidationError("--yes has no effect without --repair; omit it.") }
    }

    func run() async throws {
        if let store {
            try await execute {
                let (result, names) = try verify(store: store)
                try finish(VerificationView([result], names: names))
            }
        } else {
            try await client.execute { cluster in try await verify(cluster) }
        }
    }

    // MARK: One store

    private func verify(store: String) throws -> (RankVerification, names: [SequenceID: String]) {
        let verification = try open(store)
        defer { verification.close() }
        var result = RankVerification(rank: verification.rank)
        let bar = LateProgressBar("verify", unit: "MiB")
        defer { bar.finish() }
        while true {
            let batch = try verification.advance()
            result.findings += batch.findings
            result.progress = batch.progress
            bar.update(megabytesOf: batch.progress)
            if batch.isDone { return (result, verification.names) }
        }
    }

    /// A store that is too damaged to be opened is damage that was found.
    private func open(_ store: String) throws -> StoreVerification {
        do throws(ServiceError) {
            return try StoreVerification.open(directory: store, sequence: sequence)
        } catch {
            guard error.code == .storeDamaged else { throw error }
            printMessage("\(error)")
            throw ExitCode(ExitStatus.damage.rawValue)
        }
    }

    // MARK: A cluster

    private func verify(_ cluster: Cluster) async throws {
        var handle: SequenceHandle?
        if let sequence { handle = try await cluster.openSequence(sequence, model: nil) }
        let bar = LateProgressBar("verify", unit: "MiB")
        let ranks: [RankVerification]
        do {
            ranks = try await cluster.verify(handle) { bar.update(megabytesOf: $0) }
            bar.finish()
        } catch {
            bar.finish()
            throw error
        }
        var names: [SequenceID: String] = [:]
        for known in try await cluster.sequences() { names[known.record.id] = known.record.name }
        var view = VerificationView(ranks, names: names)
        guard repair, view.damaged > 0 else { return try finish(view) }
        let repairs = try await cluster.repairs(for: ranks)
        if repairs.isEmpty || !confirm(repairs) { return try finish(view) }
        var failure: ServiceError?
        for repair in repairs {
            do throws(ServiceError) {
                try await cluster.repair(repair)
                view.repairs.append(RepairView(repair))
            } catch {
                printMessage("Sequence `\(repair.sequence.record.name)` is not repaired: \(error)")
                failure = error
            }
        }
        view.repaired =
            failure == nil
            && ranks.allSatisfy { rank in
                rank.unlistedCount == 0
                    && rank.findings.allSatisfy { finding in
                        !finding.isDamage || repairs.contains { $0.sequence.record.id == finding.sequence }
                    }
            }
        try finish(view)
    }

    private func confirm(_ repairs: [SequenceRepair]) -> Bool {
        if yes { return true }
        let list = repairs.map { "  " + RepairView($0).plan }.joined(separator: "\n")
        let text = "\(list)\nTokens from these positions on are lost and must be prefilled again. Continue? [y/N] "
        let bytes = Array(text.utf8)
        _ = write(STDERR_FILENO, bytes, bytes.count)
        return ["y", "yes"].contains((readLine() ?? "").lowercased())
    }

    private func finish(_ view: VerificationView) throws {
        try client.output.print(view) { view.text }
        guard view.damaged == 0 || view.repaired else { throw ExitCode(ExitStatus.damage.rawValue) }
    }
}

extension LateProgressBar {
    fileprivate func update(megabytesOf progress: VerificationProgress) {
        update(done: progress.byteCount >> 20, of: progress.byteCountTotal >> 20)
    }
}
