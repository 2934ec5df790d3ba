// SPDX-License-Identifier: Apache-2.0

internal import DCPCache
internal import DCPCore
internal import DCPWire
internal import NIOCore

/// One verification of the rank's store, in the background: the loop starts a batch, a thread of low priority does it,
/// and the loop keeps what it found and starts the next.
///
/// Confined to the event loop. While steps are in flight it rests three times as long as it works, so that it takes at most
/// a quarter of one core and of the disk from them.
final class VerificationRun {
    static let restRatio: Int64 = 3
    /// Between two attempts to begin a reader, when there are too many.
    static let retryDelay = TimeAmount.milliseconds(100)

    let number: UInt64
    let sequence: SequenceID?
    /// Gone at the end, with what it remembers of the store.
    private var verification: StoreVerification?
    private let thread = BackgroundThread()
    private let eventLoop: any EventLoop
    private let isBusy: () -> Bool
    private let ended: (VerificationRun) -> Void

    private(set) var state = VerificationStatus.State.running
    private(set) var progress = VerificationProgress()
    private(set) var failure = ""
    private(set) var findings: [StoreFinding] = []
    private(set) var findingCount = 0
    private(set) var damageCount = 0
    private var rest: Scheduled<Void>?

    /// - Parameters:
    ///   - isBusy: whether something runs that the verification must leave room for.
    ///   - ended: called once, when it is done or has failed.
    init(
        number: UInt64, sequence: SequenceID?, cache: ShardCache, eventLoop: any EventLoop,
        isBusy: @escaping () -> Bool, ended: @escaping (VerificationRun) -> Void
    ) {
        self.number = number
        self.sequence = sequence
        self.eventLoop = eventLoop
        self.isBusy = isBusy
        self.ended = ended
        verification = cache.verification(of: sequence)
    }

    /// Runs the next batch.
    func advance() {
        guard state == .running, let verification else { return }
        let bound = NIOLoopBound(self, eventLoop: eventLoop)
        let eventLoop = eventLoop
        thread.submit {
            let began = NIODeadline.now()
            let result = Result { () throws(ServiceError) in try verification.advance() }
            let took = NIODeadline.now() - began
            eventLoop.execute { bound.value.take(result, took) }
        }
    }

    private func take(_ result: Result<StoreVerification.Batch, ServiceError>, _ took: TimeAmount) {
        guard state == .running else { return }
        switch result {
        case .success(let batch):
            progress = batch.progress
            findingCount += batch.findings.count
            damageCount += batch.findings.count { $0.isDamage }
            findings += batch.findings.prefix(VerificationStatus.keptMax - findings.count)
            if batch.isDone { return end(.done) }
            if isBusy() {
                advance(in: .nanoseconds(took.nanoseconds * Self.restRatio))
            } else {
                advance()
            }
        case .failure(let error):
            guard error.code != .overloaded else { return advance(in: Self.retryDelay) }
            failure = error.message
            end(.failed)
        }
    }

    private func advance(in delay: TimeAmount) {
        let bound = NIOLoopBound(self, eventLoop: eventLoop)
        rest = eventLoop.scheduleTask(in: delay) { bound.value.advance() }
    }

    private func end(_ state: VerificationStatus.State) {
        self.state = state
        verification = nil
        rest?.cancel()
        thread.stop()
        ended(self)
    }

    /// The rank stops: what runs comes to its end unheard.
    func stop() {
        guard state == .running else { return }
        failure = "The rank is stopping."
        end(.failed)
    }

    func status(from first: Int) -> VerificationStatus {
        VerificationStatus(
            run: number, state: state, sequence: sequence, progress: progress, failure: failure,
            findingCount: findingCount, damageCount: damageCount, keptCount: findings.count, firstFinding: first,
            findings: Array(findings.dropFirst(first).prefix(VerificationStatus.pageMax)))
    }
}
