// SPDX-License-Identifier: Apache-2.0

/// 64 bits that two parties compare before they exchange anything; they are equal if and only if the layouts are.
///
/// The fingerprint is derived in one place from one text, so that two roles cannot read a setting at different times or
/// in different units (TRAPS 20 to 23). The text is kept for the error message.
public struct LayoutFingerprint: Hashable, Sendable, CustomStringConvertible {
    /// The hashed text, for people: `W=4 G=1 C=4 I=1 B=64 exchange=a2a format=3`.
    public let text: String
    /// FNV-1a, 64 bits, of the text's UTF-8 bytes (Fowler, Noll, Vo; draft-eastlake-fnv).
    public let value: UInt64

    /// The store format that this build reads and writes. It rises when a byte of a stored value changes its meaning.
    public static let storeFormat = 5

    private init(text: String) {
        self.text = text
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in text.utf8 {
            hash ^= UInt64(byte)
            hash &*= 0x0000_0100_0000_01b3
        }
        self.value = hash
    }

    /// The cluster's arrangement, exchanged in the first frame of every connection between ranks and coordinator.
    public init(_ shape: ClusterShape) {
        self.init(
            text: "W=\(shape.ranks) G=\(shape.headGroups) C=\(shape.contextRanks) I=\(shape.layout.interleave) "
                + "B=\(shape.layout.blockTokens) exchange=\(shape.exchange.name) format=\(Self.storeFormat)")
    }

    /// The layout of a model's tokens in a rank's store. The exchange is not part of it, because it affects results and
    /// not keys and values.
    public init(_ model: ModelDescription, in shape: ClusterShape) {
        let runs = model.runs.map { run in
            let kind = model.kinds[run.kind]
            return "\(run.layers.count)x[Hkv=\(kind.kvHeads) Dk=\(kind.keyDim) Dv=\(kind.ownValueDim)]"
        }
        self.init(
            text: "layers=\(runs.joined(separator: ",")) format=\(model.kvFormat.name) G=\(shape.headGroups) "
                + "C=\(shape.contextRanks) I=\(shape.layout.interleave) B=\(shape.layout.blockTokens) "
                + "format=\(Self.storeFormat)")
    }

    public var description: String { text }
}
