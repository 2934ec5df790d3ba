// SPDX-License-Identifier: Apache-2.0

public import DCPCore

extension SafetensorsFile {
    package static let tokenIDsName = "token_ids"

    /// The tensor `token_ids`, one for each token; nil when there is none.
    /// - Parameter count: how many there must be; nil for any.
    /// - Throws: `.invalidRequest` when it is not U32 `[count]`, or the file cannot be read.
    public func tokenIDs(count: Int? = nil) throws(ServiceError) -> [UInt32]? {
        guard let entry = entry(named: Self.tokenIDsName) else { return nil }
        guard entry.dataType == .uint32, entry.shape.count == 1, entry.shape[0] == count ?? entry.shape[0] else {
            throw ServiceError(
                .invalidRequest,
                "\(path): tensor \(Self.tokenIDsName) is \(entry.dataType.rawValue) \(entry.shape); it must be U32 "
                    + "[\(count.map(String.init) ?? "tokens")], one id for each token.")
        }
        return try words(of: entry)
    }

    /// The numbers of a tensor in U32, or some of them.
    /// - Parameter range: as for `bytes(of:_:)`.
    package func words(of entry: SafetensorsEntry, _ range: Range<Int>? = nil) throws(ServiceError) -> [UInt32] {
        try bytes(of: entry, range).withUnsafeBytes { bytes in
            (0..<bytes.count / 4).map {
                UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: $0 * 4, as: UInt32.self))
            }
        }
    }

    /// The whole tensor, of whichever dtype, or some of its bytes.
    /// - Parameter range: counted from the tensor's first byte, and inside it.
    package func bytes(of entry: SafetensorsEntry, _ range: Range<Int>? = nil) throws(ServiceError) -> [UInt8] {
        let range = range ?? 0..<entry.byteRange.count
        precondition(range.lowerBound >= 0 && range.upperBound <= entry.byteRange.count)
        var bytes = [UInt8](repeating: 0, count: range.count)
        var failure: ServiceError?
        bytes.withUnsafeMutableBytes { buffer in
            do throws(ServiceError) {
                try read(dataOffset: entry.byteRange.lowerBound + range.lowerBound, into: buffer)
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
        return bytes
    }
}
