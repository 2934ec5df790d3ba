// SPDX-License-Identifier: Apache-2.0

package import DCPCore
package import DCPWire
package import NIOCore
internal import NIOPosix

/// The snapshots of a daemon's store that backups read. Confined to the daemon's event loop; the disk is read off it.
package final class StoreCopies {
    /// While one is held, freed pages are not reused, and the file grows by everything written.
    package static let heldMax = 2
    /// A snapshot not read for this time is dropped.
    package static let patience = TimeAmount.seconds(60)

    private struct Held {
        var read: StoredPagesReader
        var isBeingRead = false
        var expiry: Scheduled<Void>
    }

    /// Runs blocking disk work off the loop.
    package typealias DiskWork = @Sendable (_ work: @escaping @Sendable () -> Void) -> Void

    private let eventLoop: any EventLoop
    private let diskWork: DiskWork
    private var held: [UInt64: Held] = [:]

    /// - Parameter diskWork: by default NIO's threads; simulations pass another.
    package init(eventLoop: any EventLoop, diskWork: DiskWork? = nil) {
        self.eventLoop = eventLoop
        self.diskWork = diskWork ?? { work in NIOThreadPool.singleton.submit { _ in work() } }
    }

    /// - Throws: `.overloaded` if there are too many.
    package func hold(_ number: UInt64, _ copy: () throws(ServiceError) -> StoredPagesReader) throws(ServiceError) {
        guard held.count < Self.heldMax else {
            throw ServiceError(
                .overloaded,
                "\(held.count) backups are already copying this store, which is the limit of \(Self.heldMax); try "
                    + "again when one has ended."
            )
        }
        held[number] = Held(read: try copy(), expiry: expiry(of: number))
    }

    private func expiry(of number: UInt64) -> Scheduled<Void> {
        let bound = NIOLoopBound(self, eventLoop: eventLoop)
        return eventLoop.scheduleTask(in: Self.patience) {
            // The time-out of a snapshot being read restarts when the read has ended.
            if bound.value.held[number]?.isBeingRead == false { bound.value.held[number] = nil }
        }
    }

    /// On the loop; `answer` is called there, once.
    package func read(_ request: ReadCopy, _ answer: @escaping (Result<CopiedPages, ServiceError>) -> Void) {
        eventLoop.preconditionInEventLoop()
        guard let copy = held[request.number] else {
            return answer(
                .failure(
                    ServiceError(
                        .conflict,
                        "This daemon holds no copy \(request.number) of its store: it was restarted, or the copy was "
                            + "not read for \(Self.patience.nanoseconds / 1_000_000_000) s. Start the backup again.")))
        }
        guard !copy.isBeingRead else {
            return answer(
                .failure(
                    ServiceError(
                        .overloaded,
                        "This copy is already being read; send one request at a time.")))
        }
        copy.expiry.cancel()
        held[request.number]!.isBeingRead = true
        let bound = NIOLoopBound((self, answer), eventLoop: eventLoop)
        diskWork { [eventLoop, read = copy.read] in
            let result = read(request.page)
            eventLoop.execute {
                let (copies, answer) = bound.value
                if copies.held[request.number] != nil {
                    copies.held[request.number]!.isBeingRead = false
                    copies.held[request.number]!.expiry = copies.expiry(of: request.number)
                }
                answer(result.map { CopiedPages($0) })
            }
        }
    }

    package func end(_ number: UInt64) { held.removeValue(forKey: number)?.expiry.cancel() }

    package func endAll() {
        for number in Array(held.keys) { end(number) }
    }
}
