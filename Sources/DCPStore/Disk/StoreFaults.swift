// SPDX-License-Identifier: Apache-2.0

/// Hooks with which a test makes the disk fail, and inspects the data that has reached it. Every closure runs on the
/// writer's thread.
package struct StoreFaults: Sendable {
    /// The `errno` of the next sync; 0 lets it succeed. With `always` a commit includes a sync.
    package var sync: @Sendable () -> Int32
    /// The `errno` of the next commit's writes; 0 lets them succeed.
    package var write: @Sendable () -> Int32
    /// The current data file has reached the disk: the least that a power loss would leave.
    package var synced: @Sendable (_ dataPath: String) -> Void
    /// No run of free pages is longer than this.
    package var runPagesMax: @Sendable () -> Int

    package init(
        sync: @escaping @Sendable () -> Int32 = { 0 }, write: @escaping @Sendable () -> Int32 = { 0 },
        synced: @escaping @Sendable (_ dataPath: String) -> Void = { _ in },
        runPagesMax: @escaping @Sendable () -> Int = { .max }
    ) {
        self.sync = sync
        self.write = write
        self.synced = synced
        self.runPagesMax = runPagesMax
    }
}
