// SPDX-License-Identifier: Apache-2.0

/// Runs the jobs of a writer instead of its thread, for simulations, which decide when each transaction happens.
///
/// It must run everything on one thread, one job after the other.
public protocol WriterHost: AnyObject, Sendable {
    /// Runs a body once, not before `delay` has passed.
    func schedule(after delay: Duration, _ body: @escaping @Sendable () -> Void)
    /// Everything committed is on the disk.
    func synced()
}
