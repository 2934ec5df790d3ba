internal import DCPAttention
internal import DCPCore
internal import NIOCore
internal import Synchronization

/// Where the computations of a step run, and how their results come back.
extension StepWork {
    func submit(in place: Place, _ body: @escaping @Sendable () -> Void) {
        switch place {
        case .threads: pool.submit(body)
        case .loop(let run): run(body)
        }
    }

    func submit<Value: Sendable>(
        in place: Place, _ completion: @escaping Completion<Value>,
        _ body: @escaping @Sendable () throws(ServiceError) -> Value
    ) {
        submit(in: place) {
            do throws(ServiceError) {
                completion(.success(try body()))
            } catch {
                completion(.failure(error))
            }
        }
    }

    /// - Parameter prepare: is told whether it may wait for the disk or another thread, as on the compute threads; then it calls
    ///   what it is given after each piece of a long preparation. Where it may not, it gives nil when it would have to, and is
    ///   called once more on a thread.
    func attend(
        in place: Place, _ completion: @escaping Completion<AttentionResult>,
        _ prepare: @escaping @Sendable (_ goesOn: () -> Void, _ mayWait: Bool) throws(ServiceError) -> AttentionJob?
    ) {
        let isCancelled: @Sendable () -> Bool = { [self] in self.isCancelled.load(ordering: .relaxed) }
        let attendOnThreads: @Sendable () -> Void = { [pool] in
            pool.attend(
                isCancelled: isCancelled,
                prepare: { (goesOn) throws(ServiceError) in
                    guard let job = try prepare(goesOn, true) else {
                        preconditionFailure("a thread waits for what it needs")
                    }
                    return job
                }, completion: completion)
        }
        guard case .loop(let run) = place else { return attendOnThreads() }
        run {
            let begin = NIODeadline.now()
            do throws(ServiceError) {
                guard let job = try prepare({}, false) else { return attendOnThreads() }
                completion(job.computed(since: begin, isCancelled: isCancelled))
            } catch {
                completion(.failure(error))
            }
        }
    }

    func job(_ works: [AttentionWork], heads: Int, owners: [any AnyObject & Sendable]) -> AttentionJob {
        AttentionJob(
            works: works, rows: heads * plan.tokens, valueDim: plan.attention.valueDim, owners: owners)
    }
}
