// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// One tensor as a safetensors header declares it, checked.
public struct SafetensorsEntry: Hashable, Sendable {
    public let name: String
    public let dataType: SafetensorsDataType
    /// Row-major; empty for a scalar.
    public let shape: [Int]
    /// The tensor's bytes, counted from the start of the file's data.
    public let byteRange: Range<Int>
}

/// The header of a safetensors file: what the tensors are and where. A value of this type has passed every check, so
/// that a range it names lies inside the file.
struct SafetensorsHeader: Sendable {
    /// In the order of their bytes.
    let entries: [SafetensorsEntry]
    let metadata: [String: String]

    static let dimensionsMax = 16

    /// - Parameters:
    ///   - file: named in messages.
    ///   - dataByteCount: the bytes of the file after its header.
    /// - Throws: `.invalidRequest` with file, tensor, value, limit and remedy.
    init(_ bytes: [UInt8], dataByteCount: Int, file: String) throws(ServiceError) {
        let json: HeaderJSON.Value
        do { json = try HeaderJSON.parse(bytes) } catch {
            throw ServiceError(
                .invalidRequest,
                "\(file): the header is not valid at its byte \(error.offset): \(error.message). The file is damaged or "
                    + "is not safetensors; write it again.")
        }
        guard case .object(let members) = json else {
            throw ServiceError(
                .invalidRequest,
                "\(file): the header is not a JSON object. The file is not safetensors; write it again.")
        }
        var metadata: [String: String] = [:]
        var entries: [SafetensorsEntry] = []
        for (name, value) in members {
            if name == "__metadata__" {
                metadata = try Self.metadata(value, file: file)
            } else {
                entries.append(try Self.entry(name, value, dataByteCount: dataByteCount, file: file))
            }
        }
        entries.sort {
            ($0.byteRange.lowerBound, $0.byteRange.upperBound) < ($1.byteRange.lowerBound, $1.byteRange.upperBound)
        }
        try Self.checkCoverage(entries, dataByteCount: dataByteCount, file: file)
        self.entries = entries
        self.metadata = metadata
    }

    private static func metadata(_ value: HeaderJSON.Value, file: String) throws(ServiceError) -> [String: String] {
        guard case .object(let members) = value else {
            throw ServiceError(.invalidRequest, "\(file): __metadata__ is not a JSON object; write it as one.")
        }
        var metadata: [String: String] = [:]
        for (key, value) in members {
            guard case .string(let text) = value else {
                throw ServiceError(
                    .invalidRequest,
                    "\(file): the metadata \(key.debugDescription) is not a string; safetensors allows only strings, so "
                        + "write numbers as text.")
            }
            metadata[key] = text
        }
        return metadata
    }

    private static func entry(
        _ name: String, _ value: HeaderJSON.Value, dataByteCount: Int, file: String
    ) throws(ServiceError) -> SafetensorsEntry {
        func refuse(_ message: String) -> ServiceError {
            ServiceError(.invalidRequest, "\(file): tensor \(name.debugDescription) \(message)")
        }
        guard case .object(let fields) = value else {
            throw refuse("is not described by a JSON object; write it again.")
        }
        func field(_ key: String) throws(ServiceError) -> HeaderJSON.Value {
            guard let found = fields.first(where: { $0.name == key }) else {
                throw refuse("has no \(key); write the file again with a safetensors library.")
            }
            return found.value
        }
        func sizes(_ key: String, limit: Int) throws(ServiceError) -> [Int] {
            guard case .array(let elements) = try field(key), elements.count <= limit else {
                throw refuse("has a \(key) that is not an array of at most \(limit) sizes; write it again.")
            }
            var sizes: [Int] = []
            for element in elements {
                guard case .number(let text) = element, let size = Int(text), size >= 0 else {
                    let shown = if case .number(let text) = element { text } else { "something that is not a number" }
                    throw refuse(
                        "has \(shown) in its \(key); a size is a whole number in 0...\(Int.max). Write it again.")
                }
                sizes.append(size)
            }
            return sizes
        }
        guard case .string(let typeName) = try field("dtype"), let dataType = SafetensorsDataType(rawValue: typeName)
        else {
            guard case .string(let text) = try field("dtype") else {
                throw refuse("has a dtype that is not a string; write it again.")
            }
            throw refuse(
                "has the dtype \(text.debugDescription), which safetensors does not define; convert it to F32, F16 or "
                    + "BF16.")
        }
        let shape = try sizes("shape", limit: dimensionsMax)
        guard let byteCount = dataType.byteCount(ofShape: shape) else {
            throw refuse(
                "of dtype \(typeName) and shape \(shape) has no size in whole bytes up to \(Int.max / 8); correct its "
                    + "shape.")
        }
        let offsets = try sizes("data_offsets", limit: 2)
        guard offsets.count == 2, offsets[0] <= offsets[1], offsets[1] <= dataByteCount else {
            throw refuse(
                "lies at \(offsets) of \(dataByteCount) data bytes; the file is truncated or damaged. Copy or write it "
                    + "again.")
        }
        guard offsets[1] - offsets[0] == byteCount else {
            throw refuse(
                "of dtype \(typeName) and shape \(shape) needs \(byteCount) bytes, but its data_offsets \(offsets) hold "
                    + "\(offsets[1] - offsets[0]); write it again.")
        }
        return SafetensorsEntry(name: name, dataType: dataType, shape: shape, byteRange: offsets[0]..<offsets[1])
    }

    /// Tensors cover the data without overlap or hole: a file has no place for bytes that nobody declared.
    private static func checkCoverage(
        _ entries: [SafetensorsEntry], dataByteCount: Int, file: String
    ) throws(ServiceError) {
        var end = 0
        for entry in entries {
            let start = entry.byteRange.lowerBound
            guard start == end else {
                let fault = start < end ? "overlaps the tensor before it, which ends" : "leaves a hole after the data"
                throw ServiceError(
                    .invalidRequest,
                    "\(file): tensor \(entry.name.debugDescription) starts at data byte \(start) and \(fault) at \(end); "
                        + "write the file again with a safetensors library.")
            }
            end = entry.byteRange.upperBound
        }
        guard end == dataByteCount else {
            throw ServiceError(
                .invalidRequest,
                "\(file): the tensors end at data byte \(end), but the file has \(dataByteCount) data bytes; the file is "
                    + "damaged. Copy or write it again.")
        }
    }
}
