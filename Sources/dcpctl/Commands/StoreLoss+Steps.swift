// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPClient
import DCPConsole
import DCPCore
import DCPWire
import Glibc

/// The loss, its cost, and the operator's next step.
struct StoreLossPlan {
    var loss: StoreLoss
    var consequence: String
    var next: String
}

/// Walks an operator through the loss of a store: says what is recorded and what it costs, asks, and waits for the rank.
struct StoreLossOptions: ParsableArguments {
    @Argument(help: "The rank whose store is lost.")
    var rank: UInt16

    @Flag(help: "Do not ask for confirmation.")
    var yes = false

    @Option(help: ArgumentHelp("How long to wait for the rank: 30s, 10m; 0s does not wait.", valueName: "duration"))
    var wait: String = "1h"

    @OptionGroup var client: ClientOptions

    func validate() throws {
        if !yes, isatty(STDIN_FILENO) == 0 {
            throw ValidationError(
                "The command asks before it gives tokens up, but standard input is not a terminal; add --yes.")
        }
    }

    func run(_ plan: (RecordedStore) -> StoreLossPlan) async throws {
        try await client.execute { cluster in
            let patience = try DurationFormat.parse(wait)
            let known = try await recorded(in: cluster)
            let plan = plan(known)
            let sequences = try await cluster.sequences().filter { !$0.record.isCanary }.count
            guard confirm(known, plan, sequences: sequences) else { return }
            try await cluster.giveUp(plan.loss, of: known.rank)
            let start = ServiceStart.of(known.rank, beside: try client.endpoint())
            printMessage("given up. \(plan.next): \(start)")
            let taken = try await taken(in: cluster, instead: known, plan, within: patience)
            let view = StoreReplacementView(known, taken, sequences: sequences)
            try client.output.print(view) { view.text }
        }
    }

    private func recorded(in cluster: Cluster) async throws(ServiceError) -> RecordedStore {
        let stores = try await cluster.stores()
        guard let known = stores.first(where: { $0.rank.value == rank }) else {
            throw ServiceError(
                .invalidRequest,
                "Rank \(rank) has no store in this cluster; `dcpctl store list` shows the known stores."
            )
        }
        return known
    }

    private func confirm(_ known: RecordedStore, _ plan: StoreLossPlan, sequences: Int) -> Bool {
        printMessage(
            "\(known.rank) has store \(known.store), at change \(known.mark); \(sequences) sequences are in the cluster."
        )
        printMessage(plan.consequence)
        if yes { return true }
        let question = Array("Give it up? [y/N] ".utf8)
        _ = write(STDERR_FILENO, question, question.count)
        return ["y", "yes"].contains((readLine() ?? "").lowercased())
    }

    /// The store in its place when the cluster is ready with it; nil without waiting.
    private func taken(
        in cluster: Cluster, instead known: RecordedStore, _ plan: StoreLossPlan, within patience: Duration
    ) async throws -> RecordedStore? {
        guard patience > .zero else { return nil }
        let deadline = ContinuousClock.now + patience
        while ContinuousClock.now < deadline {
            // Answered when the cluster is ready, or after this time: there is no turn that only waits.
            let topology = try await cluster.topology(wait: min(.seconds(1), deadline - .now))
            if topology.phase == .ready { return try await recorded(in: cluster) }
        }
        throw ServiceError(
            .notReady,
            "\(known.rank) did not register within \(DurationFormat.short(patience)). The loss stays confirmed until "
                + "the coordinator stops; start the rank, and check `dcpctl status`.", rank: known.rank)
    }
}

struct StoreReplacementView: Encodable {
    var rank: Int
    var givenUp: StoreView
    /// nil without waiting.
    var taken: StoreView?
    var sequences: Int

    init(_ known: RecordedStore, _ taken: RecordedStore?, sequences: Int) {
        rank = Int(known.rank.value)
        givenUp = StoreView(known)
        self.taken = taken.map { StoreView($0) }
        self.sequences = sequences
    }

    var text: String {
        guard let taken else {
            return "Rank \(rank): store \(givenUp.store) is given up, and another one is accepted when the rank "
                + "registers with it."
        }
        return "Rank \(rank) serves with store \(taken.store), at change \(taken.change)."
    }
}
