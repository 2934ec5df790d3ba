// SPDX-License-Identifier: Apache-2.0

internal import DCPCache
internal import DCPCore
internal import DCPTransport
internal import DCPWire
internal import NIOCore

/// What a step in flight needs of its rank: where to compute, whom to tell, and what it shares with other steps.
///
/// Everything is called on the event loop. The step holds its host, and the host's table the step until it is finished.
protocol StepHost: AnyObject {
    var eventLoop: any EventLoop { get }
    var cache: ShardCache { get }
    var pool: ComputePool { get }
    var loopWork: LoopWork { get }

    /// Sends to another rank of the group.
    /// - Throws: why it cannot be reached.
    func send(_ message: Message, of tag: Tag, in epoch: Epoch, to member: Int) throws(ServiceError)
    /// Answers a client; one that is gone needs no answer.
    func answer(_ client: Link?, _ tag: Tag, _ message: Message)

    /// Whether the pages of all that a step sees are in memory, since another has just read them.
    func hasRecentlyRead(_ plan: StepPlan, layer: Int) -> Bool
    /// A step has read everything that it sees.
    func hasRead(_ plan: StepPlan, layer: Int)
    /// Tokens of a step are in the cache: later steps may continue.
    func appended(_ entries: [StepRequest.Entry], layer: Int)
    /// Rolls back an aborted step's tokens, and the steps that build on them.
    func rollBack(_ entries: [StepRequest.Entry], layer: Int)
    /// - Parameter done: called on the loop.
    func commit(_ parts: [SequenceCommit], done: @escaping (Result<Void, ServiceError>) -> Void)

    /// Adds to the cache's refusal of an append which sequences hold the memory.
    func withHolders(_ error: ServiceError) -> ServiceError

    /// A step has been answered.
    func completed(_ execution: StepExecution, _ times: StepTimes)
    /// A step was refused, or aborted some time after its arrival.
    func aborted(_ tag: Tag, _ request: StepRequest, _ error: ServiceError, after time: TimeAmount?)
    /// Nothing of the step is left to happen on this rank.
    func finished(_ execution: StepExecution)
}
