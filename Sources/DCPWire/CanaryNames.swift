internal import DCPCore

/// The names of what health checks use: a step through all ranks, whose tokens are never committed. Names that begin with a
/// dot are given to nothing else.
package enum CanaryNames {
    package static let model = ".canary"
    /// The one that a coordinator's own canaries go on using.
    package static let sequence = ".canary"

    /// Whether only a canary may have a name.
    package static func isReserved(_ name: String) -> Bool { name.hasPrefix(".") }
}

extension SequenceRecord {
    /// Whether it is a health check's: the lasting one, or one that `dcpctl health` opened and closes again.
    package var isCanary: Bool { model == .canary }
}
