// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// One model: value of the table `models` under the model id (4 bytes).
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | layout fingerprint in this cluster |
/// | 8 | 4 | n, bytes of the name |
/// | 12 | n | name, UTF-8 |
/// | 12 + n | 4 | d, bytes of the description |
/// | 16 + n | d | description, `ModelDescription.encoded` |
/// | 16 + n + d | 4 | CRC-32C of key and bytes 0..<16 + n + d |
struct StoredModel {
    var name: String
    var description: ModelDescription
    var fingerprint: UInt64

    static func key(_ id: ModelID) -> [UInt8] { KeyBytes.of(id.value) }

    func encoded(_ id: ModelID) -> [UInt8] {
        var record = RecordBytes()
        record.append(fingerprint)
        record.append(UInt32(name.utf8.count))
        record.append(name)
        let description = description.encoded
        record.append(UInt32(description.count))
        record.append(description)
        return record.sealed(key: Self.key(id))
    }
}

extension StoredModel {
    init?(_ id: ModelID, _ value: UnsafeRawBufferPointer) {
        guard var reader = RecordReader(key: Self.key(id), value), let fingerprint = reader.next(UInt64.self),
            let nameByteCount = reader.next(UInt32.self), let name = reader.nextBytes(Int(nameByteCount)),
            let byteCount = reader.next(UInt32.self), let bytes = reader.nextBytes(Int(byteCount)), reader.isAtEnd,
            let text = String(validating: name, as: UTF8.self)
        else { return nil }
        do throws(ServiceError) {
            description = try ModelDescription(encoded: bytes)
        } catch {
            return nil
        }
        self.name = text
        self.fingerprint = fingerprint
    }
}
