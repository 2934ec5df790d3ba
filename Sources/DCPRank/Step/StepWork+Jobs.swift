// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCore
internal import NIOCore
internal import Synchronization

/// What a job of pieces that follow each other keeps between them.
///
/// `@unchecked Sendable`: one thread at a time computes a piece of it, and the pool's lock is between two.
final class Kept<Value>: @unchecked Sendable {
    var value: Value

    init(_ value: Value) { self.value = value }
}

/// Where the computations of a step run, and how their results come back.
extension StepWork {
    /// - Parameter body: computes the next piece; returns whether there are more.
    func submit(in place: Place, _ body: @escaping @Sendable () -> Bool) {
        switch place {
        case .threads:
            let piece = AttentionRun.serialPiece
            pool.add(SerialJob(cost: piece.cost) { _ in body() }, in: plan.line, piece)
        case .loop(let run): run { while body() {} }
        }
    }

    /// - Parameter body: computes the next piece; gives nil as long as there are more.
    func submit<Value: Sendable>(
        in place: Place, _ completion: @escaping Completion<Value>,
        _ body: @escaping @Sendable () throws(ServiceError) -> Value?
    ) {
        submit(in: place) {
            do throws(ServiceError) {
                guard let value = try body() else { return true }
                completion(.success(value))
            } catch {
                completion(.failure(error))
            }
            return false
        }
    }

    /// - Parameter prepare: is told whether it may wait for the disk or another thread, as on the compute threads.
    func attend(
        in place: Place, _ completion: @escaping Completion<AttentionResult>,
        _ prepare: @escaping @Sendable (_ mayWait: Bool) throws(ServiceError) -> Preparation
    ) {
        let isCancelled: @Sendable () -> Bool = { [self] in self.isCancelled.load(ordering: .relaxed) }
        let attendOnThreads: @Sendable () -> Void = { [pool, plan] in
            pool.attend(
                in: plan.line, isCancelled: isCancelled,
                prepare: { () throws(ServiceError) in
                    switch try prepare(true) {
                    case .job(let job): job
                    case .goesOn: nil
                    case .waits: preconditionFailure("a thread waits for what it needs")
                    }
                }, completion: completion)
        }
        guard case .loop(let run) = place else { return attendOnThreads() }
        run {
            let begin = NIODeadline.now()
            do throws(ServiceError) {
                while true {
                    switch try prepare(false) {
                    case .job(let job):
                        return completion(.success(try job.computed(since: begin, isCancelled: isCancelled)))
                    case .goesOn: continue
                    case .waits: return attendOnThreads()
                    }
                }
            } catch {
                completion(.failure(error))
            }
        }
    }
}
