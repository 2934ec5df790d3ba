/// Runs the jobs of a writer in the place of its thread: for simulations, which decide when each transaction happens.
///
/// Everything it is given must run on one thread, and one after the other.
public protocol WriterHost: AnyObject, Sendable {
    /// Runs a body once, not before `delay` has passed.
    func schedule(after delay: Duration, _ body: @escaping @Sendable () -> Void)
    /// All that has been committed is on the disk.
    func synced()
}
