// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import DCPFiles
internal import Glibc

/// A safetensors file open for reading: 8 bytes of little-endian header length, a JSON header, the tensors' bytes.
///
/// The file is read with pread instead of a map: if it is truncated meanwhile, the result is an error and not SIGBUS.
/// Every length is checked against the file's size, and nothing larger than the file is allocated. A value, safe to use
/// from any thread; calls block on the disk.
public struct SafetensorsFile: Sendable {
    public let path: String
    /// In the order of their bytes in the file.
    public let entries: [SafetensorsEntry]
    public let metadata: [String: String]

    private let descriptor: OwnedDescriptor
    private let dataOffset: Int
    private let indexByName: [NameKey: Int]

    /// The same limit as the reference implementation's.
    public static let headerByteCountMax = 100_000_000
    public static let tensorsMax = HeaderJSON.membersMax

    /// - Throws: `.invalidRequest` naming the file, the tensor, the value, the limit and the remedy.
    public static func open(_ path: String) throws(ServiceError) -> SafetensorsFile {
        try SafetensorsFile(path)
    }

    private init(_ path: String) throws(ServiceError) {
        // O_NONBLOCK: opening a pipe by mistake must not wait for a writer. It has no effect on a regular file.
        let descriptor = try openDescriptor(path, O_RDONLY | O_NONBLOCK)
        var status = stat()
        fstat(descriptor.value, &status)
        if let kind = WholeFile.otherKind(mode: status.st_mode) {
            throw ServiceError(.invalidRequest, "\(path) is \(kind); give the path of a safetensors file.")
        }
        let fileByteCount = Int(status.st_size)
        guard fileByteCount >= 8 else {
            throw ServiceError(
                .invalidRequest,
                "\(path) has \(fileByteCount) bytes, fewer than the 8 of a safetensors header length; the file is "
                    + "truncated. Copy or write it again.")
        }
        let prefix = try Self.read(descriptor, path: path, offset: 0, byteCount: 8)
        let declared = prefix.reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        guard declared <= UInt64(Self.headerByteCountMax) else {
            throw ServiceError(
                .invalidRequest,
                "\(path) declares a header of \(declared) bytes, more than the limit of \(Self.headerByteCountMax); it is "
                    + "not a safetensors file, or it is damaged. Write it again.")
        }
        let headerByteCount = Int(declared)
        guard headerByteCount <= fileByteCount - 8 else {
            throw ServiceError(
                .invalidRequest,
                "\(path) declares a header of \(headerByteCount) bytes, but only \(fileByteCount - 8) follow; the file is "
                    + "truncated. Copy or write it again.")
        }
        let dataOffset = 8 + headerByteCount
        let header = try SafetensorsHeader(
            try Self.read(descriptor, path: path, offset: 8, byteCount: headerByteCount),
            dataByteCount: fileByteCount - dataOffset, file: path)
        self.path = path
        self.descriptor = descriptor
        self.dataOffset = dataOffset
        self.entries = header.entries
        self.metadata = header.metadata
        self.indexByName = Dictionary(
            uniqueKeysWithValues: header.entries.enumerated().map { (NameKey($0.element.name), $0.offset) })
    }

    /// What the header declares under a name; of any dtype.
    public func entry(named name: String) -> SafetensorsEntry? { indexByName[NameKey(name)].map { entries[$0] } }

    /// A tensor to be used as rows.
    /// - Throws: `.invalidRequest` when there is none of this name, or its dtype is not BF16, F16 or F32.
    public func tensor(named name: String) throws(ServiceError) -> SafetensorsTensor {
        guard let entry = entry(named: name) else {
            let shown = entries.prefix(12).map(\.name).joined(separator: ", ")
            throw ServiceError(
                .invalidRequest,
                "\(path) has no tensor \(name.debugDescription); it has "
                    + (entries.isEmpty ? "none" : shown + (entries.count > 12 ? ", ..." : ""))
                    + ". Rename the tensor in the file.")
        }
        guard let dataType = entry.dataType.rowDataType else {
            throw ServiceError(
                .invalidRequest,
                "\(path): tensor \(name) has dtype \(entry.dataType.rawValue); convert it to F32, F16 or BF16.")
        }
        return SafetensorsTensor(file: self, entry: entry, dataType: dataType)
    }

    /// Reads bytes of the data section into memory that the caller owns; all of them or an error.
    func read(dataOffset offset: Int, into buffer: UnsafeMutableRawBufferPointer) throws(ServiceError) {
        try Self.read(descriptor, path: path, offset: dataOffset + offset, into: buffer)
    }

    private static func read(
        _ descriptor: OwnedDescriptor, path: String, offset: Int, byteCount: Int
    ) throws(ServiceError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: byteCount)
        var failure: ServiceError?
        bytes.withUnsafeMutableBytes { buffer in
            do throws(ServiceError) { try read(descriptor, path: path, offset: offset, into: buffer) } catch {
                failure = error
            }
        }
        if let failure { throw failure }
        return bytes
    }

    private static func read(
        _ descriptor: OwnedDescriptor, path: String, offset: Int, into buffer: UnsafeMutableRawBufferPointer
    ) throws(ServiceError) {
        var done = 0
        while done < buffer.count {
            let count = pread(
                descriptor.value, buffer.baseAddress! + done, buffer.count - done, off_t(offset + done))
            if count > 0 {
                done += count
            } else if count == 0 {
                throw ServiceError(
                    .invalidRequest,
                    "\(path) ended at byte \(offset + done) while it was read; something truncated it. Copy or write it "
                        + "again.")
            } else if errno != EINTR {
                throw ServiceError(
                    .invalidRequest,
                    "\(path) cannot be read at byte \(offset + done): \(systemMessage(errno)). Check the disk it is "
                        + "on.")
            }
        }
    }
}
