internal import Synchronization

/// How far the loading of a store is. Read from any thread while another loads.
public final class LoadProgress: Sendable {
    private let count = Atomic<Int>(0)

    public init() {}

    /// Blocks that have been indexed.
    public var blocks: Int { count.load(ordering: .relaxed) }

    func advance() { count.add(1, ordering: .relaxed) }
}
