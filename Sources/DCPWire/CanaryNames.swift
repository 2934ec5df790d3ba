/// The names used by health checks, which send a step through all ranks and never commit its tokens.
///
/// A rank accepts a canary's tokens even if its store accepts no others, because they stay in RAM. The coordinator does
/// not evict its sequence, because that would free nothing.
public enum CanaryNames {
    public static let model = ".canary"
    /// The permanent sequence of a coordinator's canaries.
    public static let sequence = ".canary"

    /// Whether a sequence belongs to a canary: the permanent one, or one that `dcpctl health` opens and closes.
    public static func isSequence(_ name: String) -> Bool { name == sequence || name.hasPrefix(sequence + "-") }
}
