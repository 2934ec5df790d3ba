// SPDX-License-Identifier: Apache-2.0

internal import DCPCache
internal import DCPCore
internal import DCPRank
internal import DCPTransport
internal import Logging
internal import NIOCore

/// One journal entry for each event, at the corresponding syslog level, and the status for systemd. Confined to the
/// rank's loop.
final class RankEventLog {
    let log: DaemonLog
    var logger: Logger { log.logger }
    private let link: LinkSettings
    private let cache: ShardCache
    private let ticker: ServiceTicker
    private let eventLoop: any EventLoop
    private var isRegistered = false
    /// While the coordinator has not answered.
    private var waiting: RepeatedTask?
    private var joinedAt: NIODeadline?
    private let standing = Standing()

    /// The rank's status in words.
    private final class Standing {
        var text = "waiting for the coordinator"
    }

    init(log: DaemonLog, link: LinkSettings, cache: ShardCache, pool: ComputePool, eventLoop: any EventLoop) {
        self.log = log
        self.link = link
        self.cache = cache
        self.eventLoop = eventLoop
        ticker = ServiceTicker(
            logger: log.logger,
            status: { [standing] in "\(standing.text): \(Self.holdings(cache))" }, progress: { pool.progress },
            writerBusySince: { cache.writerBusySince })
        // The loop goes round and the coordinator is dialled, perhaps for hours: systemd must not end what waits.
        let bound = NIOLoopBound(standing, eventLoop: eventLoop)
        waiting = eventLoop.scheduleRepeatedTask(initialDelay: .zero, delay: .seconds(5)) { _ in
            ServiceManager.extendTimeout(by: RankService.startExtension, status: bound.value.text)
        }
    }

    func stop() {
        waiting?.cancel()
        ticker.stop()
    }

    private static func holdings(_ cache: ShardCache) -> String {
        guard let held = try? cache.statistics() else { return "its store does not respond" }
        let room = cache.refusal.map { ", no new tokens (\($0.code))" } ?? ""
        return "\(held.sequences) sequences, \(held.localTokens) tokens\(room)"
    }

    /// The coordinator has answered the registration. The store is open, peers and clients can connect: the rank is up,
    /// whether its cluster is complete or not.
    private func registered(_ text: String) {
        standing.text = text
        let status = "\(text): \(Self.holdings(cache))"
        guard !isRegistered else { return ServiceManager.status(status) }
        isRegistered = true
        waiting?.cancel()
        ServiceManager.ready(status: status)
        ticker.start(on: eventLoop)
    }

    func write(_ event: RankEvent) {
        switch event {
        case .listening(let endpoint): log.listening(endpoint, link)
        case .coordinatorConnected: logger.info("Coordinator connected")
        case .coordinatorLost(let error):
            logger.warning(
                "Coordinator lost, still serving in the current epoch and reconnecting",
                metadata: ["reason": "\(error.message)"])
        case .joining(let epoch):
            joinedAt = .now()
            log.write(.epochChanged, .notice, "Joining", cause: "\(epoch)", ["epoch": "\(epoch.value)"])
            registered("joining epoch \(epoch.value)")
        case .ready(let epoch):
            var metadata: Logger.Metadata = ["epoch": "\(epoch.value)"]
            if let joinedAt { metadata["duration-us"] = "\((NIODeadline.now() - joinedAt).nanoseconds / 1000)" }
            log.write(.rankReady, .notice, "Ready", cause: "\(epoch)", metadata)
            registered("serving in epoch \(epoch.value)")
        case .notReady(let reason):
            logger.warning("Not serving, the cluster is incomplete", metadata: ["reason": "\(reason)"])
            registered("not serving, \(reason)")
        case .peerConnected(let rank): logger.info("Peer connected", metadata: ["peer": "\(rank.value)"])
        case .memoryShared(let rank):
            logger.info("Exchanging tensors through shared memory", metadata: ["peer": "\(rank.value)"])
        case .memoryNotShared(let rank, let error):
            logger.warning(
                "Memory cannot be shared, sending tensors over the connection",
                metadata: ["peer": "\(rank.value)", "error": "\(error.code)", "reason": "\(error.message)"])
        case .peerLost(let rank, let error):
            // A rank that stops has said so.
            log.write(
                .peerLost, error.code == .shuttingDown ? .notice : .warning,
                "Peer lost, steps that need it are aborted",
                cause: "\(rank) \(error.code)",
                ["peer": "\(rank.value)", "reason": "\(error.message)"])
        case .peerNotReached(let rank, let error):
            logger.warning(
                "Peer not reached, retrying",
                metadata: ["peer": "\(rank.value)", "error": "\(error.code)", "reason": "\(error.message)"])
        case .stepAborted(let tag, let sequences, let error, let age):
            var metadata: Logger.Metadata = ["step": "\(tag)"]
            if let age { metadata["duration-us"] = "\(age.nanoseconds / 1000)" }
            fail("Step aborted, the client was notified", metadata, sequences, error)
        case .commitFailed(let sequences, let error):
            fail("Commit failed, the client was notified", [:], sequences, error)
        case .refused(let peer, let cause, let error):
            log.write(
                .connectionRefused, .warning, "Refused a connection", cause: cause.rawValue,
                [
                    "peer": "\(peer)", "cause": "\(cause.rawValue)", "error": "\(error.code)",
                    "reason": "\(error.message)",
                ])
        case .operationFailed(let operation, let error):
            logger.error(
                "Operation failed, the coordinator was notified",
                metadata: ["operation": "\(operation)", "reason": "\(error.message)"])
        case .claimEnded(let sequence, let tokens, let patience):
            log.write(
                .claimEnded, .warning,
                "A client has gone, its uncommitted tokens were rolled back", cause: "\(sequence)",
                [
                    "sequence": "\(sequence.value)", "tokens": "\(tokens)",
                    "duration-us": "\(patience.nanoseconds / 1000)",
                ])
        case .claimNotEnded(let sequence, let error):
            logger.error(
                "A client has gone, and its uncommitted tokens could not be rolled back",
                metadata: ["sequence": "\(sequence.value)", "reason": "\(error.message)"])
        case .storeCondition(let refusal?):
            log.write(
                refusal.isRetryable ? .diskFull : .storeDamaged, refusal.isRetryable ? .warning : .critical,
                "The store refuses new tokens", ["error": "\(refusal.code)", "reason": "\(refusal.message)"])
        case .storeCondition(nil): logger.notice("The store accepts new tokens again")
        case .verified(_, _, let failure?):
            logger.error("Verification failed", metadata: ["reason": "\(failure)"])
        case .verified(let findings, 0, nil):
            logger.notice("Store verified, no damage", metadata: ["leftovers": "\(findings)"])
        case .verified(let findings, let damage, nil):
            logger.error(
                """
                Store verified, damage found; damaged tokens are not served, run `dcpctl verify --repair` to cut \
                them off
                """,
                metadata: ["damage": "\(damage)", "leftovers": "\(findings - damage)"])
        case .fatal: break  // Logged once, with the exit.
        }
    }

    /// The level and event of a failure depend on its cause: the disk, the store, a peer, or only the request.
    private func fail(
        _ what: Logger.Message, _ metadata: Logger.Metadata, _ sequences: [SequenceID], _ error: ServiceError
    ) {
        var metadata = metadata
        metadata["sequence"] = "\(sequences.map { "\($0.value)" }.joined(separator: ","))"
        metadata["error"] = "\(error.code)"
        metadata["reason"] = "\(error.message)"
        let (event, level): (JournalEvent, Logger.Level) =
            switch error.code {
            case .storeDamaged: (.storeDamaged, .error)
            // Another rank's full store is the news of that rank.
            case .storeFull where error.rank ?? cache.rank == cache.rank: (.diskFull, .error)
            case .internal: (.stepAborted, .error)
            case .storeFull, .rankUnavailable, .deadlineExceeded, .overloaded: (.stepAborted, .warning)
            default: (.stepAborted, .info)
            }
        let origin = error.rank.map { "\($0)" } ?? ""
        log.write(event, level, what, cause: "\(error.code) \(origin)", metadata)
    }
}
