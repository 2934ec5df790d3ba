// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// How kernels prefetch keys and values: into which cache, and how long before their use. Results have the same bits with
/// any.
public struct Prefetch: Hashable, Sendable, CustomStringConvertible {
    public enum Level: String, Sendable {
        /// Left to the hardware.
        case none
        case first
        case second
    }

    public var level: Level
    /// How many bytes of a context are read between a prefetch and its use; nil for as many as `dcp_ahead_bytes` finds for
    /// the work.
    public var byteCount: Int?

    public init(_ level: Level, byteCount: Int? = nil) {
        self.level = level
        self.byteCount = byteCount
    }

    /// Into the first-level cache: what serves Zen 5 best.
    public static let first = Prefetch(.first)

    /// What is tried. 32 KiB before their use lines lie in any second-level cache, and from 16 to 64 KiB it made no
    /// difference (Zen 4).
    package static let candidates = [first, Prefetch(.second, byteCount: 32 << 10), Prefetch(.none)]

    /// The environment variable that forces one: `DCP_KERNELS_AHEAD=first|second|none`, with a distance in KiB if wanted:
    /// `second:48`.
    public static let variable = "DCP_KERNELS_AHEAD"

    /// What `DCP_KERNELS_AHEAD` says; set but empty is not set.
    /// - Throws: `.invalidConfiguration` for a value that says nothing.
    public static func forced() throws(ServiceError) -> Prefetch? {
        guard let text = EnvironmentVariable.value(variable) else { return nil }
        guard let prefetch = Prefetch(text) else {
            throw ServiceError(
                .invalidConfiguration,
                "`\(text)` is no way to prefetch; set \(variable) to first, second or none, the first two with a distance "
                    + "of 1 to 1024 KiB if wanted, as in second:48, or unset it.")
        }
        return prefetch
    }

    /// As `description` has it.
    public init?(_ text: String) {
        let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
        guard let level = Level(rawValue: String(parts[0])),
            let known = Self.candidates.first(where: { $0.level == level })
        else { return nil }
        self = known
        guard parts.count == 2 else { return }
        guard level != .none, let kibibytes = Int(parts[1]), (1...1024).contains(kibibytes) else { return nil }
        byteCount = kibibytes << 10
    }

    public var description: String { level.rawValue + (byteCount.map { ":\($0 >> 10)" } ?? "") }
}
