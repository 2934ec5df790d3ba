// SPDX-License-Identifier: Apache-2.0

internal import CLMDB
internal import Glibc
internal import Synchronization

/// The writer's handling of a failing disk, and of one that has room again.
extension WriterCore {
    /// A commit has reached the file.
    func committed(pages: Int, isFreeing: Bool) {
        if case .refused = health.withLock({ $0.condition }) {
            // A commit as large as the refused one proves that there is room. A smaller one may have used pages of the
            // free list, and a deletion always does; then the probe decides.
            let byteCount = pages * environment.pageByteCount
            if !isFreeing, byteCount >= health.withLock({ $0.wantedByteCount }) {
                endRefusal()
            } else if isFreeing, isRoomOnFreeList {
                endRefusal()
            }
        }
        // It fails only without a free reader, and some are reserved; the earlier measurement is then kept.
        try? measure()
    }

    /// Updates usage and condition after a commit.
    func measure() throws(StoreError) {
        let capacity = environment.capacityByteCount
        let low = watermarks.lowByteCount(capacity: capacity)
        let used = try environment.usedByteCount(exactFrom: low)
        update { health in
            (health.usedByteCount, health.capacityByteCount) = (used, capacity)
            switch health.condition {
            case .writable, .full:
                let isFull = watermarks.isFull(health.condition == .full, used: used, capacity: capacity)
                health.condition = isFull ? .full : .writable
            case .refused, .failed: break
            }
        }
    }

    /// Evaluates an aborted transaction: what it says about the disk.
    /// - Returns: the error for the jobs.
    func judged(_ error: any Error, pages: Int) -> any Error {
        guard let error = error as? StoreError else { return error }
        guard let cause = error.cause, cause != MDB_MAP_FULL else {
            // A store without pages is full even below the watermark. Pages that readers hold back become free without
            // action.
            if error.code == .full, !isEmpty(for: pages + environment.reservedPages) {
                update { if case .writable = $0.condition { $0.condition = .full } }
            }
            return error
        }
        switch cause {
        case MDB_PANIC, MDB_CORRUPTED, MDB_PAGE_NOTFOUND: return fail(error)
        case ENOSPC, EIO, EDQUOT:
            // A commit with `always` syncs. If the sync failed, its pages are lost but marked as clean: a second
            // attempt would succeed without them.
            if durability == .always, hasLostWrites { return fail(error) }
            refuse(cause, byteCount: pages * environment.pageByteCount)
            return error
        default: return error
        }
    }

    private var hasLostWrites: Bool {
        if let code = environment.faults.withLock({ $0 })?.sync(), code != 0 { return true }
        return (witness?.check() ?? 0) != 0
    }

    /// Permanent. After a failed fsync the kernel marks the lost pages as clean and the next sync succeeds: data
    /// acknowledged since the last successful one cannot be trusted, so nothing more is written.
    @discardableResult
    func fail(_ error: StoreError) -> StoreError {
        if let failure { return failure }
        var remedy = "check the disk, then restart the rank, which verifies the store"
        do throws(StoreError) {
            try environment.mark(suspect: true)
        } catch {
            remedy =
                "check the disk, run dcpctl verify (the store could not be marked for verification: \(error)), then "
                + "restart"
        }
        let failure = StoreError(
            .damaged,
            "A write or a sync of the store \(environment.directory) failed. The latest acknowledged changes may be "
                + "lost, and nothing more is written: \(remedy). (\(error))",
            cause: error.cause)
        self.failure = failure
        nextProbe = nil
        update { $0.condition = .failed(failure) }
        return failure
    }

    private func refuse(_ code: Int32, byteCount: Int) {
        nextProbe = Self.inOneSecond()
        update { health in
            health.condition = .refused(code)
            health.wantedByteCount = max(health.wantedByteCount, min(byteCount, RoomProbe.byteCountRange.upperBound))
        }
    }

    /// Probes the disk again. Commits wait meanwhile for one allocation and one sync.
    func probe() {
        beginsPiece()
        nextProbe = nil
        guard case .refused = health.withLock({ $0.condition }) else { return }
        let wanted = health.withLock { $0.wantedByteCount }
        if let code = environment.faults.withLock({ $0 })?.write(), code != 0 {
            nextProbe = Self.inOneSecond()
        } else if isRoomOnFreeList || RoomProbe.run(directory: environment.directory, byteCount: wanted) == 0 {
            endRefusal()
        } else {
            nextProbe = Self.inOneSecond()
        }
    }

    /// Whether the file itself has as much free space as was refused, after a deletion.
    private var isRoomOnFreeList: Bool {
        let wanted = max(health.withLock { $0.wantedByteCount }, RoomProbe.byteCountRange.lowerBound)
        let free = (try? environment.freeListPages()) ?? 0
        return free * environment.pageByteCount >= wanted
    }

    private func endRefusal() {
        nextProbe = nil
        update { health in
            health.condition = .writable
            health.wantedByteCount = 0
            let isFull = watermarks.isFull(
                false, used: health.usedByteCount, capacity: health.capacityByteCount)
            if isFull { health.condition = .full }
        }
    }

    /// Changes the health, and notifies the observer if the condition changed.
    private func update(_ change: (inout StoreHealth) -> Void) {
        let changed = health.withLock { health -> StoreHealth? in
            let before = health.condition
            change(&health)
            return health.condition == before ? nil : health
        }
        if let changed { observer.withLock { $0 }?(changed) }
    }
}
