/// The names of what health checks use: a step through all ranks, whose tokens are never committed.
///
/// A rank takes a canary's tokens also when its store takes no others, since they stay in RAM; the coordinator does not evict
/// its sequence, which would free nothing.
public enum CanaryNames {
    public static let model = ".canary"
    /// The one that a coordinator's own canaries go on using.
    public static let sequence = ".canary"

    /// Whether a sequence is a canary's: the lasting one, or one that `dcpctl health` opened and closes again.
    public static func isSequence(_ name: String) -> Bool { name == sequence || name.hasPrefix(sequence + "-") }
}
