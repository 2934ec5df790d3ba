// SPDX-License-Identifier: Apache-2.0

/// Memory that the two ends of a link share.
public struct MemorySettings: Hashable, Sendable {
    /// Bytes in each direction.
    public var ringByteCount: Int
    /// Shorter payloads go with their frames, which is as fast.
    public var payloadByteCountMin: Int

    public init(ringByteCount: Int = 4 << 20, payloadByteCountMin: Int = 2 << 10) {
        self.ringByteCount = ringByteCount
        self.payloadByteCountMin = payloadByteCountMin
    }
}
