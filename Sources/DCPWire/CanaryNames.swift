// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// The names used by health checks, which send a step through all ranks and never commit its tokens. All names that
/// begin with a dot are reserved for them.
///
/// A rank accepts a canary's tokens even if its store accepts no others, because they stay in RAM. The coordinator does
/// not evict its sequence, because that would free nothing.
package enum CanaryNames {
    package static let model = ".canary"
    /// The permanent sequence of a coordinator's canaries.
    package static let sequence = ".canary"

    /// Whether only a canary may have a name.
    package static func isReserved(_ name: String) -> Bool { name.hasPrefix(".") }
}

extension SequenceRecord {
    /// Whether it belongs to a canary: the permanent one, or one that `dcpctl health` opens and closes.
    package var isCanary: Bool { model == .canary }
}
