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
                .peerLost, .warning, "Rank lost, the cluster waits for it", cause: "\(rank)",
                ["peer": "\(rank.value)", "reason": "\(reason)"])
        case .secondHolder(let rank, let error):
            log.write(
                .secondHolder, .error, "Two processes have the store of one rank, the second is refused",
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
            logger.warning("A rank's store, or its latest changes, are given up: another is taken", metadata: metadata)
        case .olderStoreTaken(let rank, let mark, let recorded, let cuts): write(rank, mark, recorded, cuts)
        case .joining(let epoch): logger.info("Joining", metadata: ["epoch": "\(epoch.value)"])
        case .ready(let epoch):
            log.write(.epochChanged, .notice, "Cluster ready", cause: "\(epoch)", ["epoch": "\(epoch.value)"])
        case .reconciled(let cuts): write(cuts)
        case .unknownSequences(let rank, let sequences):
            let named = sequences.prefix(Self.sequencesNamedMax).map { "\($0.value)" }.joined(separator: ",")
            logger.warning(
                "A rank holds sequences the directory does not know, dropping them after the grace time",
                metadata: [
                    "peer": "\(rank.value)", "count": "\(sequences.count)",
                    "sequences": "\(named)\(sequences.count > Self.sequencesNamedMax ? ",..." : "")",
                ])
        case .droppedUnknown(let sequence, let ranks):
            logger.warning(
                "Dropping a sequence the directory does not know",
                metadata: [
                    "sequence": "\(sequence.value)", "ranks": "\(ranks.map { "\($0.value)" }.joined(separator: ","))",
                ])
        case .operationFailed(let operation, let error):
            logger.error(
                "Operation refused by a rank and taken back where it made something",
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
                "Sequence evicted: nobody had used it for its time to live",
                metadata: ["sequence": "\(sequence.value)", "name": "\(name)", "unused": "\(seconds) s"])
        case .refused(let peer, let cause, let error):
            log.write(
                .connectionRefused, .warning, "Refused a connection", cause: cause.rawValue,
                [
                    "peer": "\(peer)", "cause": "\(cause.rawValue)", "error": "\(error.code)",
                    "reason": "\(error.message)",
                ])
        case .fatal: break  // Logged once, with the exit.
        }
    }

    /// Sequences named at one join.
    private static let cutsNamedMax = 100

    private func write(_ rank: RankIndex, _ mark: UInt64, _ recorded: UInt64, _ cuts: [(SequenceRecord, to: Int)]) {
        logger.warning(
            "An older store is accepted, sequences are cut to what it holds",
            metadata: [
                "peer": "\(rank.value)", "change": "\(mark)", "recorded": "\(recorded)", "count": "\(cuts.count)",
            ])
        for (sequence, length) in cuts.prefix(Self.cutsNamedMax) {
            logger.warning(
                "A sequence that was cut after the older store's epoch began is cut to there again",
                metadata: ["sequence": "\(sequence.id.value)", "name": "\(sequence.name)", "to": "\(length)"])
        }
    }

    private func write(_ cuts: [SequenceCut]) {
        for cut in cuts.prefix(Self.cutsNamedMax) {
            logger.warning(
                "Committed tokens that not every rank has are cut",
                metadata: [
                    "sequence": "\(cut.sequence.value)", "name": "\(cut.name)", "from": "\(cut.from)",
                    "to": "\(cut.to)",
                    "ranks": "\(cut.ranks.map { "\($0.value)" }.joined(separator: ","))",
                ])
        }
        guard cuts.count > Self.cutsNamedMax else { return }
        logger.warning(
            "Committed tokens that not every rank has are cut, of more sequences than are named",
            metadata: ["count": "\(cuts.count)"])
    }
}
