// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
public import DCPCore
public import DCPStore
internal import Glibc
internal import Synchronization

/// Whether the store takes new tokens, and what it would like to be rid of.
extension ShardCache {
    /// As of the last commit.
    public var health: StoreHealth { writer.health }

    /// As `Writer.busySince`.
    public var writerBusySince: UInt64? { writer.busySince }

    /// Has every change of the store's condition told. The body runs on the writer's thread and must not block.
    public func observeCondition(_ body: @escaping @Sendable (StoreHealth) -> Void) {
        conditionObserver.withLock { $0 = body }
    }

    /// Writer's thread.
    func conditionChanged(_ health: StoreHealth) {
        switch health.condition {
        case .writable, .full:
            // What the disk refused is tried again when it has room.
            retryAllDeletions()
            retrySpills()
        case .refused, .failed: break
        }
        conditionObserver.withLock { $0 }?(health)
    }

    /// Why no new tokens are taken, nil when they are. Tokens that are appended already may be committed in any case;
    /// whether the disk takes them is seen then.
    public var refusal: ServiceError? {
        let health = health
        let (used, capacity) = (health.usedByteCount, health.capacityByteCount)
        let marks = settings.watermarks
        let remedy = "close or truncate sequences, or raise --disk-limit of \(rank) and restart it"
        switch health.condition {
        case .writable: return nil
        case .full:
            return fail(
                .storeFull,
                "The store of \(rank) is full: it holds \(used) bytes, and the high watermark is \(marks.high) % of "
                    + "\(capacity) bytes. New tokens are refused until it holds less than \(marks.low) %; \(remedy).")
        case .refused(let code):
            return fail(
                .storeFull,
                "The disk of the store of \(rank) is full or refuses writes (\(String(cString: strerror(code)))) at \(used) "
                    + "of \(capacity) bytes: new tokens are refused until the disk accepts writes again; free space "
                    + "on it, or close or truncate sequences.")
        case .failed: return failure
        }
    }

    /// Why nothing more is written until the rank is restarted, nil while the store takes writes or may again.
    ///
    /// What the directory holds may be missing here then: its opening was refused.
    public var failure: ServiceError? {
        guard case .failed(let error) = health.condition else { return nil }
        return fail(.storeDamaged, error.message)
    }

    /// Why no new tokens are taken at this moment although there is room: what is appended and not committed would fill it.
    public var crowding: ServiceError? {
        let health = health
        let (used, capacity) = (health.usedByteCount, health.capacityByteCount)
        let waiting = uncommitted.value * blockPercent / 100
        guard waiting > 0, used + waiting >= settings.watermarks.highByteCount(capacity: capacity) else { return nil }
        return fail(
            .storeFull,
            "The store of \(rank) holds \(used) bytes and \(waiting) more are waiting to be committed, above the high "
                + "watermark of \(settings.watermarks.high) % of \(capacity) bytes: commit or rewind, then retry.")
    }

    /// The size of blocks in the store, in percent of their keys and values: whole pages, for small shapes several
    /// times as much. The largest value of all models.
    private var blockPercent: Int {
        let pageByteCount = environment.pageByteCount
        return modelEntries.withLock { models in
            models.values.map { model in
                model.blockPagesInAll * pageByteCount * 100
                    / (model.rowByteCount * blockTokens)
            }.max() ?? 100
        }
    }

    /// Bytes that evictions should free: down to the low watermark, or the refused size. Pending deletions count as
    /// freed.
    public var evictionByteCount: Int {
        let health = health
        let pending = doomedByteCount
        switch health.condition {
        case .writable, .failed: return 0
        case .full:
            let low = settings.watermarks.lowByteCount(capacity: health.capacityByteCount)
            // Below it, not to it: at the watermark the store is still full.
            return max(health.usedByteCount - pending - low + environment.pageByteCount, 0)
        case .refused: return max(health.wantedByteCount - pending, 0)
        }
    }

    /// Bytes by which the file may be larger than its limit, because it was before, and deletions need pages.
    public var excessByteCount: Int { environment.excessByteCount }

    /// Bytes of blocks and rows that no sequence has and that are not deleted yet.
    public var doomedByteCount: Int {
        doomed.withLock(\.pages) * environment.pageByteCount
    }
}

extension ShardCache.Settings {
    /// The size of the map for a data file that must not grow beyond a limit, whatever is deleted from it: the reserve for
    /// deletions lies inside.
    public static func mapByteCountMax(diskByteCountMax: Int) -> Int {
        Environment.mapByteCountMax(fileByteCountMax: diskByteCountMax)
    }
}
