// SPDX-License-Identifier: Apache-2.0

/// A size as people write it: `200GB`, `64MiB`, `1.5TiB`, `4096`. KB, MB, GB and TB are powers of 1000, KiB, MiB, GiB and
/// TiB of 1024; a number alone is bytes.
struct ByteSize: Equatable {
    let byteCount: Int

    private static let units: [String: Double] = [
        "": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
        "kib": 1024, "mib": 1_048_576, "gib": 1_073_741_824, "tib": 1_099_511_627_776,
    ]

    init?(_ text: String) {
        let number = text.prefix { $0.isASCII && ($0.isNumber || $0 == ".") }
        let unit = text.dropFirst(number.count).drop { $0 == " " }.lowercased()
        guard let value = Double(number), let scale = Self.units[unit], value * scale < 1e18 else { return nil }
        byteCount = Int(value * scale)
    }
}
