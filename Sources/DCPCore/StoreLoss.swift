// SPDX-License-Identifier: Apache-2.0

/// The part of a rank's store that is given up, so that another store may take its place.
///
/// It names the lost store or changes, so it has no effect on stores that come after the replacement.
public enum StoreLoss: Hashable, Sendable {
    /// The whole store.
    case store(StoreID)
    /// Its changes up to this one, the last durable change: an older copy is accepted.
    case changes(UInt64)
}

extension StoreID {
    /// The id of 32 hexadecimal digits, as ``description`` writes them; nil for anything else.
    public init?(_ text: some StringProtocol) {
        guard text.utf8.count == 32, text.utf8.allSatisfy({ $0 != UInt8(ascii: "+") && $0 != UInt8(ascii: "-") }),
            let high = UInt64(text.prefix(16), radix: 16), let low = UInt64(text.suffix(16), radix: 16)
        else { return nil }
        self.init(high: high, low: low)
    }
}
