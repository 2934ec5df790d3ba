// SPDX-License-Identifier: Apache-2.0

public import DCPCore
public import DCPStore

/// Lists in options: `32k,128k`, `1,2`, `bf16,f32`.
public enum Lists {
    /// Tokens and the like; the suffixes k and m stand for 1024 and 1024 x 1024.
    /// - Parameter option: `--context`, for the message.
    /// - Throws: `.invalidConfiguration` with the item, the range and the form.
    public static func counts(
        _ text: String, option: String, in range: ClosedRange<Int>
    ) throws(ServiceError) -> [Int] {
        try items(text, option: option).map { (item) throws(ServiceError) in
            var digits = Substring(item.lowercased())
            var factor = 1
            for (suffix, value) in [("k", 1024), ("m", 1024 * 1024)] where digits.hasSuffix(suffix) {
                digits.removeLast()
                factor = value
            }
            let number = digits.allSatisfy { ("0"..."9").contains($0) } ? Int(digits) : nil
            guard let number, !number.multipliedReportingOverflow(by: factor).overflow,
                range.contains(number * factor)
            else {
                throw ServiceError(
                    .invalidConfiguration,
                    "\(item.debugDescription) in \(option) is not a number in \(range.lowerBound)...\(range.upperBound); "
                        + "write it as 4096 or 32k, separated by commas if there are several.")
            }
            return number * factor
        }
    }

    public static func count(
        _ text: String, option: String, in range: ClosedRange<Int>
    ) throws(ServiceError) -> Int {
        let all = try counts(text, option: option, in: range)
        guard all.count == 1 else {
            throw ServiceError(
                .invalidConfiguration, "\(option) takes one number, not \(all.count); leave out all but one.")
        }
        return all[0]
    }

    public static func formats(_ text: String) throws(ServiceError) -> [CacheFormat] {
        try items(text, option: "--kv-format").map { (item) throws(ServiceError) in
            guard let format = CacheFormat(name: item) else {
                throw ServiceError(
                    .invalidConfiguration,
                    "\(item.debugDescription) in --kv-format is not a cache format; use \(CacheFormat.names).")
            }
            return format
        }
    }

    public static func dataTypes(_ text: String, option: String) throws(ServiceError) -> [DataType] {
        try items(text, option: option).map { (item) throws(ServiceError) in
            guard let type = DataType(name: item) else {
                throw ServiceError(
                    .invalidConfiguration, "\(item.debugDescription) in \(option) is not a dtype; use bf16, f16 or f32."
                )
            }
            return type
        }
    }

    public static func durabilities(_ text: String) throws(ServiceError) -> [Durability] {
        try items(text, option: "--durability").map { (item) throws(ServiceError) in
            guard let durability = Durability(rawValue: item.lowercased()) else {
                throw ServiceError(
                    .invalidConfiguration,
                    "\(item.debugDescription) in --durability is not a durability; use never, everysec or always.")
            }
            return durability
        }
    }

    public static func shapes(_ text: String, areLatent: Bool = false) throws(ServiceError) -> [AttentionShape] {
        try items(text, option: "--shape").map { (item) throws(ServiceError) in
            try AttentionShape(item, isLatent: areLatent)
        }
    }

    private static func items(_ text: String, option: String) throws(ServiceError) -> [String] {
        let items = text.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
        guard items.allSatisfy({ !$0.isEmpty }) else {
            throw ServiceError(
                .invalidConfiguration,
                "\(text.debugDescription) in \(option) has an empty item; write the items with single commas between "
                    + "them.")
        }
        return items
    }
}
