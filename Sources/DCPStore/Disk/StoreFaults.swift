/// Where a test makes the disk fail, and looks at what has reached it. Every closure runs on the writer's thread.
package struct StoreFaults: Sendable {
    /// What the next sync fails with, an `errno`; 0 lets it go on. With `always` a commit contains one.
    package var sync: @Sendable () -> Int32
    /// What the next commit's writes fail with, an `errno`; 0 lets it go on.
    package var write: @Sendable () -> Int32
    /// The data file has reached the disk as it is now: what a loss of power would leave at the least.
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
