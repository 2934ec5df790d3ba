internal import DCPCore
internal import DCPRank
internal import Logging

/// One line for each event, at the level syslog means by it.
struct RankEventLog {
    let logger: Logger

    func write(_ event: RankEvent) {
        switch event {
        case .listening(let endpoint): logger.notice("Listening", metadata: ["endpoint": "\(endpoint)"])
        case .coordinatorConnected: logger.info("Coordinator connected")
        case .coordinatorLost(let error):
            logger.warning(
                "Coordinator lost, serving on in the epoch held and dialling again",
                metadata: ["reason": "\(error.message)"])
        case .joining(let epoch): logger.info("Joining", metadata: ["epoch": "\(epoch.value)"])
        case .ready(let epoch):
            logger.notice("Ready", metadata: ["epoch": "\(epoch.value)"])
            ServiceManager.ready(status: "serving in epoch \(epoch.value)")
        case .notReady(let reason):
            logger.warning("Not serving, the cluster is incomplete", metadata: ["reason": "\(reason)"])
            ServiceManager.status("not serving: \(reason)")
        case .peerConnected(let rank): logger.info("Peer connected", metadata: ["peer": "\(rank.value)"])
        case .peerLost(let rank, let error):
            logger.warning(
                "Peer lost, its steps are aborted", metadata: ["peer": "\(rank.value)", "reason": "\(error.message)"])
        case .stepAborted(let tag, let error):
            logger.info(
                "Step aborted, the client was told",
                metadata: ["step": "\(tag)", "error": "\(error.code)", "reason": "\(error.message)"])
        case .refused(let peer, let error):
            logger.warning(
                "Refused a connection",
                metadata: ["peer": "\(peer)", "error": "\(error.code)", "reason": "\(error.message)"])
        case .operationFailed(let operation, let error):
            logger.error(
                "Operation failed, the coordinator was told",
                metadata: ["operation": "\(operation)", "reason": "\(error.message)"])
        case .storeCondition(let refusal?):
            let level: Logger.Level = refusal.isRetryable ? .warning : .critical
            logger.log(
                level: level, "The store takes no new tokens",
                metadata: ["error": "\(refusal.code)", "reason": "\(refusal.message)"])
            ServiceManager.status("no new tokens: \(refusal.message)")
        case .storeCondition(nil):
            logger.notice("The store takes new tokens again")
            ServiceManager.status("serving")
        case .verified(_, _, let failure?):
            logger.error("Verification failed", metadata: ["reason": "\(failure)"])
        case .verified(let findings, 0, nil):
            logger.notice("Store verified, no damage", metadata: ["leftovers": "\(findings)"])
        case .verified(let findings, let damage, nil):
            logger.error(
                "Store verified, damage found; it is not served, cut it off with `dcpctl verify --repair`",
                metadata: ["damage": "\(damage)", "leftovers": "\(findings - damage)"])
        case .fatal: break  // Logged once, with the exit.
        }
    }
}
