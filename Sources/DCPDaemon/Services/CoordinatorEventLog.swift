// SPDX-License-Identifier: Apache-2.0

internal import DCPCoordinator
internal import DCPCore
internal import DCPTransport
internal import DCPWire
internal import Logging

/// One line for each event of the coordinator, at the level syslog means by it.
struct CoordinatorEventLog {
    let log: DaemonLog
    private var logger: Logger { log.logger }

    private let link: LinkSettings
    /// A line of the journal is to be read; the count says how many more there are.
    private static let sequencesNamedMax = 100

    init(log: DaemonLog, link: LinkSettings) {
        self.log = log
        self.link = link
    }

    func write(_ event: CoordinatorEvent) {
        switch event {
        case .listening(let endpoint): log.listening(endpoint, link)
        case .rankRegistered(let rank, let store, let endpoint):
            logger.notice(
                "Rank registered",
                metadata: ["peer": "\(rank.value)", "store": "\(store)", "endpoint": "\(endpoint)"])
        case .rankLost(let rank, let reason):
            log.write(
                .peerLost, .warning, "Rank lost, waiting for it", cause: "\(rank)",
                ["peer": "\(rank.value)", "reason": "\(reason)"])
        case .rankRefused(let rank, let error):
            logger.error(
                "A rank is refused: its store and the coordinator's state belong to different clusters or times",
                metadata: ["peer": "\(rank.value)", "reason": "\(error.message)"])
        case .secondHolder(let rank, let error):
            log.write(
                .secondHolder, .error, "Two processes use the store of one rank, the second is refused",
                cause: "\(rank)",
                ["peer": "\(rank.value)", "reason": "\(error.message)"])
        case .olderStore(let rank, let error):
            log.write(
                .olderStore, .error, "An older copy of a rank's store is refused", cause: "\(rank)",
                ["peer": "\(rank.value)", "reason": "\(error.message)"])
        case .gaveUp(let rank, let loss, let client):
            var metadata: Logger.Metadata = ["peer": "\(rank.value)", "client": "\(client)"]
            switch loss {
            case .store(let store): metadata["store"] = "\(store)"
            case .changes(let mark): metadata["change"] = "\(mark)"
            }
            logger.warning(
                "A rank's store, or its latest changes, are given up: another is accepted", metadata: metadata)
        case .olderStoreTaken(let rank, let mark, let recorded, let cuts): write(rank, mark, recorded, cuts)
        case .joining(let epoch): logger.info("Joining", metadata: ["epoch": "\(epoch.value)"])
        case .ready(let epoch):
            log.write(.epochChanged, .notice, "Cluster ready", cause: "\(epoch)", ["epoch": "\(epoch.value)"])
        case .reconciled(let cuts): write(cuts)
        case .adopted(let report): write(report)
        case .unknownSequences(let rank, let sequences):
            logger.warning(
                "A rank holds sequences that are not in the directory, dropping them after the grace time",
                metadata: [
                    "peer": "\(rank.value)", "count": "\(sequences.count)",
                    "sequences": "\(Self.list(sequences.map { "\($0.value)" }, separator: ","))",
                ])
        case .droppedUnknown(let sequence, let ranks):
            logger.warning(
                "Dropping a sequence that is not in the directory",
                metadata: [
                    "sequence": "\(sequence.value)", "ranks": "\(ranks.map { "\($0.value)" }.joined(separator: ","))",
                ])
        case .operationFailed(let operation, let error):
            logger.error(
                "Operation refused by a rank and undone where it created something",
                metadata: ["operation": "\(operation)", "reason": "\(error.message)"])
        case .evicted(let sequence, let name, .room(let rank, let byteCount)):
            logger.notice(
                "Sequence evicted to make room",
                metadata: [
                    "sequence": "\(sequence.value)", "name": "\(name)", "peer": "\(rank.value)",
                    "wanted": "\(byteCount) bytes",
                ])
        case .evicted(let sequence, let name, .age(let seconds)):
            logger.notice(
                "Sequence evicted: it was not used for its time to live",
                metadata: ["sequence": "\(sequence.value)", "name": "\(name)", "unused": "\(seconds) s"])
        case .refused(let peer, let cause, let error):
            log.write(
                .connectionRefused, .warning, "Refused a connection", cause: cause.rawValue,
                [
                    "peer": "\(peer)", "cause": "\(cause.rawValue)", "error": "\(error.code)",
                    "reason": "\(error.message)",
                ])
        case .diskFull(let error):
            logger.error("The coordinator cannot record changes", metadata: ["reason": "\(error.message)"])
        case .diskHasRoom: logger.notice("The coordinator records changes again")
        case .fatal: break  // Logged once, with the exit.
        }
    }

    private static func list(_ all: [String], separator: String = "; ") -> String {
        all.prefix(sequencesNamedMax).joined(separator: separator)
            + (all.count > sequencesNamedMax ? "\(separator)..." : "")
    }

    private func write(_ rank: RankIndex, _ mark: UInt64, _ recorded: UInt64, _ cuts: [(SequenceRecord, to: Int)]) {
        logger.warning(
            "An older store is accepted, sequences are cut to what it holds",
            metadata: ["peer": "\(rank.value)", "change": "\(mark)", "recorded": "\(recorded)"])
        guard !cuts.isEmpty else { return }
        log.write(
            .committedCut, .warning,
            "Sequences that were cut after the older store's epoch began are cut again to the same lengths",
            cause: "\(rank)",
            [
                "count": "\(cuts.count)",
                "sequences": "\(Self.list(cuts.map { "`\($0.0.name)` (\($0.0.id.value)) to \($0.to)" }))",
            ])
    }

    private func write(_ report: AdoptionReport) {
        log.write(
            .directoryAdopted, report.lost.isEmpty ? .notice : .warning,
            "The directory was rebuilt from the ranks' stores; omit --adopt-ranks from now on",
            [
                "models": "\(report.models)", "sequences": "\(report.sequences)",
                "closed-since": "\(report.closed.count)", "closed-names": "\(Self.list(report.closed))",
                "not-adopted": "\(report.lost.count)",
                "reasons": "\(Self.list(report.lost.map { "\($0.what): \($0.reason)" }))",
            ])
    }

    private func write(_ cuts: [SequenceCut]) {
        let named = cuts.prefix(Self.sequencesNamedMax + 1).map { cut in
            let ranks = cut.ranks.map { "\($0.value)" }.joined(separator: ",")
            return "`\(cut.name)` (\(cut.sequence.value)) from \(cut.from) to \(cut.to), longer on rank \(ranks)"
        }
        log.write(
            .committedCut, .warning, "Committed tokens that not every rank has are cut",
            cause: cuts.first.map { "\($0.sequence)" } ?? "",
            [
                "count": "\(cuts.count)", "tokens": "\(cuts.reduce(0) { $0 + $1.from - $1.to })",
                "sequences": "\(Self.list(named))",
            ])
    }
}
