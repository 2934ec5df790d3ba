// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// How kernels prefetch keys and values: into which cache, and how far ahead. It does not affect the bits of results.
public struct Prefetch: Hashable, Sendable, CustomStringConvertible {
    public enum Level: String, Sendable {
        /// Left to the hardware.
        case none
        case first
        case second
    }

    public var level: Level
    /// The bytes of a context that are read between a prefetch and its use; nil for the distance that `dcp_ahead_bytes`
    /// chooses for the work.
    public var byteCount: Int?

    public init(_ level: Level, byteCount: Int? = nil) {
        self.level = level
        self.byteCount = byteCount
    }

    /// Into the first-level cache: the best for Zen 5.
    public static let first = Prefetch(.first)

    /// The ways that are tried. 32 KiB ahead fits into any second-level cache, and 16 to 64 KiB made no difference on
    /// Zen 4.
    package static let candidates = [first, Prefetch(.second, byteCount: 32 << 10), Prefetch(.none)]

    /// The environment variable that forces one: `DCP_KERNELS_AHEAD=first|second|none`, optionally with a distance in
    /// KiB, as in `second:48`.
    public static let variable = "DCP_KERNELS_AHEAD"

    /// The value of `DCP_KERNELS_AHEAD`; an empty one counts as unset.
    /// - Throws: `.invalidConfiguration` for an unknown value.
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

    /// In the form of `description`.
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
