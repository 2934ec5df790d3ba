// SPDX-License-Identifier: Apache-2.0

/// The history, as a hash of every line and, on request, as the lines.
public final class Trace {
    /// FNV-1a of all lines, 64 bits.
    public private(set) var hash: UInt64 = 0xcbf2_9ce4_8422_2325
    private let print: ((String) -> Void)?
    private var time: UInt64 = 0

    /// - Parameter print: given each line as it happens.
    public init(print: ((String) -> Void)? = nil) { self.print = print }

    /// An event begins.
    func add(_ time: UInt64, _ process: String, _ label: StaticString) {
        self.time = time
        mix(time)
        mix(process)
        label.withUTF8Buffer { mix($0) }
        print?("\(stamp) \(process) \(label)")
    }

    /// Something within the event that deserves a separate line.
    func note(_ text: @autoclosure () -> String) {
        guard let print else { return }
        print("\(stamp)   \(text())")
    }

    /// Mixes a number in: bytes that were sent, a length that was seen.
    func mix(_ value: UInt64) {
        withUnsafeBytes(of: value.littleEndian) { mix($0.bindMemory(to: UInt8.self)) }
    }

    private func mix(_ text: String) {
        var text = text
        text.withUTF8 { mix($0) }
    }

    private func mix(_ bytes: UnsafeBufferPointer<UInt8>) {
        for byte in bytes { hash = (hash ^ UInt64(byte)) &* 0x0000_0100_0000_01b3 }
    }

    private var stamp: String {
        let microseconds = time / 1000
        let digits = String(microseconds % 1_000_000)
        return "\(microseconds / 1_000_000)." + String(repeating: "0", count: 6 - digits.count) + digits
    }
}
