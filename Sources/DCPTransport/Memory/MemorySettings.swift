/// Memory that the two ends of a link share.
public struct MemorySettings: Hashable, Sendable {
    /// What may lie in it each way.
    public var ringByteCount: Int
    /// A shorter payload goes with its frame, which is as fast.
    public var payloadByteCountMin: Int

    public init(ringByteCount: Int = 4 << 20, payloadByteCountMin: Int = 2 << 10) {
        self.ringByteCount = ringByteCount
        self.payloadByteCountMin = payloadByteCountMin
    }
}
