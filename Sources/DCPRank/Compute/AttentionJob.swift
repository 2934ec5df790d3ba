// SPDX-License-Identifier: Apache-2.0

package import DCPAttention
package import DCPCore
package import NIOCore

/// The attention of one step's entries, and what keeps the memory alive that they read.
package struct AttentionJob: Sendable {
    /// An entry's attention.
    package struct Entry: Sendable {
        /// nil of one for which so little is computed that it is as it is merged; see `own`.
        package var work: AttentionWork?
        /// Held until the work has been computed; of large ones until the result is taken.
        package var owner: (any AnyObject & Sendable)?

        package init(_ work: AttentionWork, owner: (any AnyObject & Sendable)? = nil) {
            self.work = work
            self.owner = owner
        }

        private init() {}

        /// Without pieces.
        package static let own = Entry()

        /// The result so far.
        var withoutOwner: Entry {
            var entry = self
            entry.owner = nil
            return entry
        }
    }

    let entries: Int
    let rows: Int
    let valueDim: Int
    /// Makes an entry's, once; called on several threads at a time.
    let entry: @Sendable (Int) throws(ServiceError) -> Entry
    /// Computes an entry that has no work.
    let own: @Sendable (Int, inout AttentionStates) throws(ServiceError) -> Void
    let owners: [any AnyObject & Sendable]

    /// - Parameters:
    ///   - entries: how many. All are over the same heads and the same step's tokens, and have all of these between them.
    ///   - rows: heads times the step's tokens.
    ///   - owners: held until the result is taken.
    ///   - own: computes one of which `entry` makes no work, into its rows; called on one thread at a time.
    ///   - entry: makes the attention of one of them.
    package init(
        entries: Int, rows: Int, valueDim: Int, owners: [any AnyObject & Sendable],
        own: @escaping @Sendable (Int, inout AttentionStates) throws(ServiceError) -> Void = { _, _ in
            preconditionFailure("every entry has work")
        },
        entry: @escaping @Sendable (Int) throws(ServiceError) -> Entry
    ) {
        self.entries = entries
        self.rows = rows
        self.valueDim = valueDim
        self.owners = owners
        self.own = own
        self.entry = entry
    }

    /// Computes it at once, on the thread that calls.
    /// - Parameters:
    ///   - begin: of its preparation.
    ///   - isCancelled: as for `attend`.
    func computed(
        since begin: NIODeadline, isCancelled: @escaping @Sendable () -> Bool
    ) throws(ServiceError) -> AttentionResult {
        var states = AttentionStates.unspecified(rows: rows, valueDim: valueDim)
        var kernelTime = TimeAmount.zero
        for index in 0..<entries {
            guard !isCancelled() else { throw AttentionResult.cancelled }
            let entry = try entry(index)
            guard let work = entry.work else {
                try own(index, &states)
                continue
            }
            let start = NIODeadline.now()
            for piece in 0..<work.pieceCount { work.run(piece: piece) }
            kernelTime = kernelTime + (NIODeadline.now() - start)
            work.finish(into: &states)
        }
        return AttentionResult(
            states: states, span: ComputeSpan(begin: begin, end: .now(), kernelTime: kernelTime))
    }
}

/// The states that a job computed, and when.
package struct AttentionResult: Sendable {
    package var states: AttentionStates
    package var span: ComputeSpan

    static let cancelled = ServiceError(.stepAborted, "The step ended before it was computed.")
}

/// When something was computed on the pool, on the monotonic clock.
package struct ComputeSpan: Hashable, Sendable {
    /// A thread took it up; it had waited in the queue until then.
    package var begin: NIODeadline
    package var end: NIODeadline
    /// Time in kernels, summed over the threads.
    package var kernelTime: TimeAmount

    package init(begin: NIODeadline, end: NIODeadline, kernelTime: TimeAmount) {
        self.begin = begin
        self.end = end
        self.kernelTime = kernelTime
    }
}

extension ComputePool {
    /// Prepares a job, then deals its pieces to all threads; the thread that ends the last piece merges them: in fixed
    /// order, so the result does not depend on who that is.
    ///
    /// - Parameters:
    ///   - isCancelled: asked before each piece; the job then ends as `.stepAborted`.
    ///   - prepare: called on one thread at a time, until it gives the job: nil after a piece of a long preparation.
    ///   - completion: called once, on a compute thread.
    package func attend(
        in line: PieceQueue.Line, isCancelled: @escaping @Sendable () -> Bool,
        prepare: @escaping @Sendable () throws(ServiceError) -> AttentionJob?,
        completion: @escaping @Sendable (Result<AttentionResult, ServiceError>) -> Void
    ) {
        let run = AttentionRun(
            threads: threads, isCancelled: isCancelled, prepare: prepare, completion: completion)
        add(run, in: line, AttentionRun.serialPiece)
    }
}
