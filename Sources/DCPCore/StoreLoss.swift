/// What is given up of a rank's store, so that another one may take its place.
///
/// It names what is lost, and so it is spent when that is replaced: it says nothing about a store that comes later.
public enum StoreLoss: Hashable, Sendable {
    /// The whole store.
    case store(StoreID)
    /// Its changes up to this one, the last that is known to have been on the disk: an older copy is taken.
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
