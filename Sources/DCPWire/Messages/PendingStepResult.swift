// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import NIOCore

/// A rank's answer to a step, written some rows at a time by whoever computes them, its checksum as well. That of a prefill is
/// tens of megabytes, which the event loop that sends them then neither copies nor reads.
package struct PendingStepResult: Sendable {
    private let rows: Int
    private let valueDim: Int
    private let fields: ByteBuffer
    /// `[rows][valueDim]`, as far as they have come.
    private var outputs: ByteBuffer
    private var lse: ByteBuffer?
    /// Of the fields and the outputs, while these are in a cache.
    private var checksum = CRC32C()

    package init(tokens: Int, heads: Int, valueDim: Int, wantsLSE: Bool) {
        rows = heads * tokens
        self.valueDim = valueDim
        outputs = TensorMemory.buffer(byteCount: rows * valueDim * 4)
        lse = wantsLSE ? ByteBufferAllocator().buffer(capacity: rows * 4) : nil
        var writer = WireWriter()
        let empty = StepResult(tokens: tokens, heads: heads, valueDim: valueDim, outputs: ByteBuffer(), lse: lse)
        _ = empty.encodeBody(to: &writer)
        fields = writer.buffer
        fields.withUnsafeReadableBytes { checksum.update($0) }
    }

    /// Adds the next rows.
    /// - Parameters:
    ///   - outputs: `[some rows][valueDim]`
    ///   - lse: `[some rows]`, natural logarithms.
    package mutating func append(outputs new: [Float], lse newLSE: [Double]) {
        precondition(new.count == newLSE.count * valueDim, "Outputs and log-sum-exps differ in their rows.")
        new.withUnsafeBytes { bytes in
            outputs.writeBytes(bytes)
            checksum.update(bytes)
        }
        guard var lse else { return }
        self.lse = nil
        lse.writeWithUnsafeMutableBytes(minimumWritableBytes: newLSE.count * 4) { bytes in
            for (row, value) in newLSE.enumerated() {
                bytes.storeBytes(of: Float(value).bitPattern.littleEndian, toByteOffset: row * 4, as: UInt32.self)
            }
            return newLSE.count * 4
        }
        self.lse = lse
    }

    /// The whole, when no row is missing any more.
    package var body: EncodedBody {
        precondition(outputs.readableBytes == rows * valueDim * 4, "an answer is sent when it is whole")
        var checksum = checksum
        lse?.withUnsafeReadableBytes { checksum.update($0) }
        return EncodedBody(
            type: StepRequest.type.reply, fields: fields, payload: [outputs, lse ?? ByteBuffer()],
            checksum: checksum.value)
    }
}
