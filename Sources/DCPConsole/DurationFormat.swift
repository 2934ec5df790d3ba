// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import Foundation

/// Durations as options and tables write them.
public enum DurationFormat {
    /// Longer ones are no deadline: about 31 years.
    static let secondsMax = 1e9

    /// Parses `500ms`, `30s`, `1.5m`, `2h`, `250us`. The unit is not optional: 30 of what is not for the program to guess.
    /// - Throws: `.invalidConfiguration` with the text and the forms there are.
    public static func parse(_ text: String) throws(ServiceError) -> Duration {
        let units: [(suffix: String, seconds: Double)] = [
            ("us", 1e-6), ("ms", 1e-3), ("s", 1), ("m", 60), ("h", 3600),
        ]
        let digits = text.prefix { ("0"..."9").contains($0) || $0 == "." }
        guard let number = Double(digits), let unit = units.first(where: { $0.suffix == text.dropFirst(digits.count) })
        else {
            throw ServiceError(
                .invalidConfiguration,
                "\(text.debugDescription) is not a duration; write a number with its unit: 500ms, 30s, 5m or 2h.")
        }
        let seconds = number * unit.seconds
        guard seconds <= secondsMax else {
            throw ServiceError(
                .invalidConfiguration,
                "The duration \(text) is more than \(Int(secondsMax)) seconds; write a shorter one.")
        }
        return .seconds(seconds)
    }

    /// A latency with three digits: `850 us`, `1.24 ms`, `12.4 ms`, `2.31 s`, `3m 05s`.
    public static func latency(_ duration: Duration) -> String {
        let seconds = duration.inSeconds
        if seconds.magnitude >= 99.95 { return short(duration) }
        if seconds.magnitude >= 0.9995 { return threeDigits(seconds) + " s" }
        if seconds.magnitude >= 0.0009995 { return threeDigits(seconds * 1e3) + " ms" }
        return fixed(seconds * 1e6, decimals: 0) + " us"
    }

    /// A time to wait, in whole seconds: `4 s`, `3m 05s`, `2h 07m`.
    public static func short(_ duration: Duration) -> String {
        let seconds = Int(duration.inSeconds.rounded(.up).clamped(to: -secondsMax...secondsMax))
        if seconds < 60 { return "\(seconds) s" }
        if seconds < 3600 { return "\(seconds / 60)m \(twoDigits(seconds % 60))s" }
        return "\(seconds / 3600)h \(twoDigits(seconds / 60 % 60))m"
    }

    private static func twoDigits(_ value: Int) -> String { value < 10 ? "0\(value)" : "\(value)" }

    private static func threeDigits(_ value: Double) -> String {
        fixed(value, decimals: value.magnitude < 9.995 ? 2 : value.magnitude < 99.95 ? 1 : 0)
    }
}

/// Byte counts as tables write them.
public enum ByteFormat {
    /// In powers of 1024, with three digits: `512 B`, `1.50 KiB`, `64.0 MiB`.
    public static func format(_ byteCount: Int) -> String {
        if byteCount.magnitude < 1024 { return "\(byteCount) B" }
        var value = Double(byteCount) / 1024
        var units = ["KiB", "MiB", "GiB", "TiB", "PiB"][...]
        // 1023.5 would be written 1024.
        while value.magnitude >= 1023.5, units.count > 1 {
            value /= 1024
            units.removeFirst()
        }
        let decimals = value.magnitude < 9.995 ? 2 : value.magnitude < 99.95 ? 1 : 0
        return "\(fixed(value, decimals: decimals)) \(units.first!)"
    }
}

/// A number with a fixed count of decimals, the same in every locale.
func fixed(_ value: Double, decimals: Int) -> String { String(format: "%.\(decimals)f", value) }

extension Duration {
    /// Rounded to a Double.
    package var inSeconds: Double { Double(components.seconds) + Double(components.attoseconds) / 1e18 }
}

extension Double {
    fileprivate func clamped(to range: ClosedRange<Double>) -> Double {
        isNaN ? range.upperBound : Swift.min(Swift.max(self, range.lowerBound), range.upperBound)
    }
}
