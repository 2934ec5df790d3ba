internal import DCPCore

/// One model: value of the table `models` under the model id (4 bytes).
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | layers |
/// | 4 | 4 | query heads |
/// | 8 | 4 | KV heads |
/// | 12 | 4 | key dim |
/// | 16 | 4 | value dim |
/// | 20 | 4 | scale, bits of a Float32 |
/// | 24 | 4 | soft cap, bits of a Float32; 0 for none |
/// | 28 | 4 | KV dtype, `DataType.rawValue` |
/// | 32 | 8 | layout fingerprint in this cluster |
/// | 40 | 4 | n, bytes of the name |
/// | 44 | n | name, UTF-8 |
/// | 44 + n | 4 | CRC-32C of key and bytes 0..<44 + n |
struct ModelRecord {
    var name: String
    var shape: ModelShape
    var fingerprint: UInt64

    static func key(_ id: ModelID) -> [UInt8] { KeyBytes.of(id.value) }

    func encoded(_ id: ModelID) -> [UInt8] {
        var record = RecordBytes()
        for field in [shape.layers, shape.queryHeads, shape.kvHeads, shape.keyDim, shape.valueDim] {
            record.append(UInt32(field))
        }
        record.append(shape.scale.bitPattern)
        record.append((shape.softcap ?? 0).bitPattern)
        record.append(UInt32(shape.kvDataType.rawValue))
        record.append(fingerprint)
        record.append(UInt32(name.utf8.count))
        record.append(name)
        return record.sealed(key: Self.key(id))
    }
}

extension ModelRecord {
    init?(_ id: ModelID, _ value: UnsafeRawBufferPointer) {
        guard var reader = RecordReader(key: Self.key(id), value) else { return nil }
        var fields: [Int] = []
        for _ in 0..<8 {
            guard let field = reader.next(UInt32.self) else { return nil }
            fields.append(Int(field))
        }
        guard let fingerprint = reader.next(UInt64.self), let count = reader.next(UInt32.self),
            let name = reader.nextBytes(Int(count)), reader.isAtEnd,
            let dataType = UInt8(exactly: fields[7]).flatMap(DataType.init(rawValue:))
        else { return nil }
        let softcap = Float(bitPattern: UInt32(fields[6]))
        do throws(ServiceError) {
            shape = try ModelShape(
                layers: fields[0], queryHeads: fields[1], kvHeads: fields[2], keyDim: fields[3], valueDim: fields[4],
                scale: Float(bitPattern: UInt32(fields[5])), softcap: softcap == 0 ? nil : softcap,
                kvDataType: dataType)
        } catch {
            return nil
        }
        self.name = String(decoding: name, as: UTF8.self)
        self.fingerprint = fingerprint
    }
}
