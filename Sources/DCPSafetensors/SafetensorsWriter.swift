// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import DCPFiles
internal import Synchronization

/// Writes a safetensors file piece by piece.
///
/// The file appears under its name complete or not at all. Tensors are declared first; then values are appended to any
/// of them in any order, as steps of several layers produce them. Everything goes to a `PartialFile`, whose space is
/// reserved at once and which `finish` syncs and renames; a writer that is dropped before removes it, and a file that
/// stood under the name before stays as it was. Safe to use from any thread; calls block on the disk.
public final class SafetensorsWriter: Sendable {
    /// A tensor to be written.
    public struct Declaration: Hashable, Sendable {
        public let name: String
        public let dataType: SafetensorsDataType
        /// Row-major; empty for a scalar.
        public let shape: [Int]

        /// Of rows of a step.
        public init(name: String, dataType: DataType, shape: [Int]) {
            self.init(name: name, elements: SafetensorsDataType(dataType), shape: shape)
        }

        public init(name: String, elements dataType: SafetensorsDataType, shape: [Int]) {
            self.name = name
            self.dataType = dataType
            self.shape = shape
        }
    }

    private struct Tensor {
        let name: String
        let byteRange: Range<Int>
        var byteCountWritten = 0
    }

    private struct State {
        var tensors: [Tensor]
        var isFinished = false
    }

    public let path: String
    private let file: PartialFile
    private let dataOffset: Int
    private let indexByName: [NameKey: Int]
    private let state: Mutex<State>

    /// Creates the partial file with its header.
    /// - Throws: `.invalidRequest` for two tensors of one name, a name that is reserved, a shape that has no size, a place
    ///   that cannot be written, or a disk without room for the whole file.
    public init(path: String, tensors: [Declaration], metadata: [String: String] = [:]) throws(ServiceError) {
        // Wider elements first, so that every tensor starts aligned to its own element.
        let ordered = tensors.enumerated().sorted {
            ($1.element.dataType.bitCount, $0.offset) < ($0.element.dataType.bitCount, $1.offset)
        }.map(\.element)
        var offset = 0
        var placed: [Tensor] = []
        var indexByName: [NameKey: Int] = [:]
        for declaration in ordered {
            guard declaration.name != "__metadata__", indexByName[NameKey(declaration.name)] == nil else {
                throw ServiceError(
                    .invalidRequest,
                    "\(path): the tensor name \(declaration.name.debugDescription) is reserved or used twice; rename "
                        + "it.")
            }
            guard
                let byteCount = declaration.dataType.byteCount(ofShape: declaration.shape),
                case (let end, false) = offset.addingReportingOverflow(byteCount)
            else {
                throw ServiceError(
                    .invalidRequest,
                    "\(path): tensor \(declaration.name.debugDescription) of shape \(declaration.shape) has no size up to "
                        + "\(Int.max / 8) bytes; correct its shape.")
            }
            indexByName[NameKey(declaration.name)] = placed.count
            placed.append(Tensor(name: declaration.name, byteRange: offset..<end))
            offset = end
        }
        let header = SafetensorsHeaderText.bytes(
            of: zip(ordered, placed).map { ($0, $1.byteRange) }, metadata: metadata)
        guard case (let byteCount, false) = offset.addingReportingOverflow(header.count) else {
            throw ServiceError(
                .invalidRequest,
                "\(path): the header's \(header.count) bytes and the tensors' \(offset) are more than \(Int.max); correct "
                    + "the shapes.")
        }
        self.path = path
        file = try PartialFile(for: path, byteCount: byteCount)
        self.dataOffset = header.count
        self.indexByName = indexByName
        self.state = Mutex(State(tensors: placed))
        try header.lendBytes { bytes throws(ServiceError) in try file.write(bytes, at: 0) }
    }

    /// Writes the next bytes of a tensor, row-major and little-endian.
    /// - Throws: `.invalidRequest` for an undeclared name, more bytes than declared, or a disk that is full.
    public func append(_ bytes: UnsafeRawBufferPointer, to name: String) throws(ServiceError) {
        guard let index = indexByName[NameKey(name)] else {
            throw ServiceError(
                .invalidRequest, "\(path): tensor \(name.debugDescription) was not declared; declare it.")
        }
        let start: Int? = state.withLock { state in
            precondition(!state.isFinished)
            let tensor = state.tensors[index]
            guard bytes.count <= tensor.byteRange.count - tensor.byteCountWritten else { return nil }
            state.tensors[index].byteCountWritten += bytes.count
            return tensor.byteRange.lowerBound + tensor.byteCountWritten
        }
        guard let start else {
            throw ServiceError(
                .invalidRequest,
                "\(path): \(bytes.count) bytes are more than tensor \(name.debugDescription) has left of its declared "
                    + "shape; declare a larger shape.")
        }
        try file.write(bytes, at: dataOffset + start)
    }

    /// Writes the next values of a Float32 tensor.
    /// - Throws: as `append(_:to:)` of bytes.
    public func append(_ values: [Float], to name: String) throws(ServiceError) {
        try values.lendBytes { bytes throws(ServiceError) in try append(bytes, to: name) }
    }

    /// Syncs the file and renames it, replacing an existing one.
    /// - Throws: `.invalidRequest` when a tensor is incomplete or the disk fails; the name is then untouched.
    public func finish() throws(ServiceError) {
        let incomplete = state.withLock { state in
            state.tensors.first { $0.byteCountWritten < $0.byteRange.count }
        }
        if let incomplete {
            throw ServiceError(
                .invalidRequest,
                "\(path) is not written: tensor \(incomplete.name.debugDescription) has \(incomplete.byteCountWritten) of "
                    + "its \(incomplete.byteRange.count) bytes; append the rest before finishing.")
        }
        try file.publish()
        state.withLock { $0.isFinished = true }
    }
}

/// The header as bytes: length, JSON, spaces up to a multiple of 8.
enum SafetensorsHeaderText {
    static func bytes(
        of tensors: [(SafetensorsWriter.Declaration, Range<Int>)], metadata: [String: String]
    ) -> [UInt8] {
        var members: [String] = []
        if !metadata.isEmpty {
            let pairs = metadata.sorted { $0.key < $1.key }.map { "\(quoted($0.key)):\(quoted($0.value))" }
            members.append("\"__metadata__\":{" + pairs.joined(separator: ",") + "}")
        }
        for (tensor, range) in tensors {
            let shape = tensor.shape.map(String.init).joined(separator: ",")
            members.append(
                "\(quoted(tensor.name)):{\"dtype\":\"\(tensor.dataType.rawValue)\","
                    + "\"shape\":[\(shape)],\"data_offsets\":[\(range.lowerBound),\(range.upperBound)]}")
        }
        var text = Array(("{" + members.joined(separator: ",") + "}").utf8)
        text.append(contentsOf: repeatElement(UInt8(ascii: " "), count: (8 - text.count % 8) % 8))
        return (0..<8).map { UInt8(truncatingIfNeeded: text.count >> ($0 * 8)) } + text
    }

    private static func quoted(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            case _ where scalar.value < 0x20:
                let digits = String(scalar.value, radix: 16)
                result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}
