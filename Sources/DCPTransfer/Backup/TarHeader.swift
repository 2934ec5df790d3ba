// SPDX-License-Identifier: Apache-2.0

package import DCPCore

/// The header block of a file in a tar archive, as a value: POSIX ustar, with a pax record before it for a size that
/// does not fit.
///
/// GNU tar's sparse members, which omit unused pages, begin with a map of the whole file, but the used pages are known
/// only after reading the whole store. Unused pages are therefore zeros, which compression removes and a restore turns
/// into holes.
package struct TarHeader: Hashable, Sendable {
    package static let blockByteCount = 512
    /// Eleven octal digits.
    static let ustarByteCountMax = 0o777_7777_7777
    /// Of a pax record that is read: the one that is written has some 20.
    static let paxByteCountMax = 64 << 10

    package enum Kind: UInt8, Sendable {
        case file = 0x30  // 0
        /// Fields of the header behind it.
        case pax = 0x78  // x
    }

    package var kind = Kind.file
    package var name: String
    package var byteCount: Int
    /// Seconds since 1970.
    package var modified: Int
    package var user: UInt32 = 0
    package var group: UInt32 = 0

    package init(
        kind: Kind = .file, name: String, byteCount: Int, modified: Int, user: UInt32 = 0, group: UInt32 = 0
    ) {
        self.kind = kind
        self.name = name
        self.byteCount = byteCount
        self.modified = modified
        self.user = user
        self.group = group
    }

    /// One block, or three.
    package func encoded() -> [UInt8] {
        guard byteCount > Self.ustarByteCountMax else { return block(byteCount: byteCount) }
        let record = Self.paxRecord("size", "\(byteCount)")
        let pax = TarHeader(kind: .pax, name: "PaxHeaders/\(name)", byteCount: record.count, modified: modified)
        return pax.block(byteCount: record.count) + record + Self.padding(after: record.count)
            + block(byteCount: 0)
    }

    /// What fills a file up to whole blocks.
    static func padding(after byteCount: Int) -> [UInt8] { Array(repeating: 0, count: paddingByteCount(byteCount)) }

    static func paddingByteCount(_ byteCount: Int) -> Int {
        (blockByteCount - byteCount % blockByteCount) % blockByteCount
    }

    /// `29 size=10000000000` and a line feed, with its own length in front.
    private static func paxRecord(_ key: String, _ value: String) -> [UInt8] {
        let rest = " \(key)=\(value)\n"
        var length = rest.utf8.count + 1
        while "\(length)".utf8.count + rest.utf8.count != length { length += 1 }
        return Array("\(length)\(rest)".utf8)
    }

    private func block(byteCount: Int) -> [UInt8] {
        var block = [UInt8](repeating: 0, count: Self.blockByteCount)
        func put(_ text: String, at offset: Int) {
            precondition(text.utf8.count <= 100, "names are short")
            block.replaceSubrange(offset..<offset + text.utf8.count, with: text.utf8)
        }
        func put(octal number: Int, at offset: Int, digits: Int) {
            let text = String(number, radix: 8)
            put(String(repeating: "0", count: digits - text.count) + text, at: offset)
        }
        put(name, at: 0)
        put(octal: 0o600, at: 100, digits: 7)
        // Seven octal digits: an owner that does not fit is left to the unpacking program.
        put(octal: user <= 0o777_7777 ? Int(user) : 0, at: 108, digits: 7)
        put(octal: group <= 0o777_7777 ? Int(group) : 0, at: 116, digits: 7)
        put(octal: byteCount, at: 124, digits: 11)
        put(octal: max(modified, 0), at: 136, digits: 11)
        block[156] = kind.rawValue
        put("ustar\u{0}00", at: 257)
        put(octal: Self.sum(block[...]), at: 148, digits: 6)
        block[155] = UInt8(ascii: " ")
        return block
    }

    /// Of all bytes, those of the sum itself as spaces.
    private static func sum(_ block: ArraySlice<UInt8>) -> Int {
        block.indices.reduce(0) { $0 + ((148..<156).contains($1 - block.startIndex) ? 0x20 : Int(block[$1])) }
    }
}

extension TarHeader {
    /// Reads one block.
    /// - Throws: `.invalidRequest` with the problem, for a block that is not the header of a plain file.
    package init(_ block: [UInt8]) throws(ServiceError) {
        precondition(block.count == Self.blockByteCount)
        func octal(_ range: Range<Int>) -> Int? {
            let digits = block[range].prefix { $0 != 0 && $0 != 0x20 }
            guard !digits.isEmpty, digits.count <= 12, digits.allSatisfy({ (0x30...0x37).contains($0) }) else {
                return nil
            }
            return digits.reduce(0) { $0 << 3 | Int($1 - 0x30) }
        }
        guard octal(148..<156) == Self.sum(block[...]), let size = octal(124..<136), let modified = octal(136..<148)
        else { throw Self.refusal("a header fails its checksum") }
        guard let kind = Kind(rawValue: block[156] == 0 ? Kind.file.rawValue : block[156]) else {
            let letter = String(decoding: [block[156]], as: UTF8.self)
            throw Self.refusal("it has a member of the kind \(letter.debugDescription)")
        }
        self.kind = kind
        name = String(decoding: block[0..<100].prefix { $0 != 0 }, as: UTF8.self)
        byteCount = size
        self.modified = modified
        user = UInt32(octal(108..<116) ?? 0)
        group = UInt32(octal(116..<124) ?? 0)
    }

    /// Applies a preceding pax record.
    /// - Throws: `.invalidRequest` for invalid records or sizes.
    package mutating func apply(pax body: [UInt8]) throws(ServiceError) {
        var rest = body[...]
        while !rest.isEmpty {
            let digits = rest.prefix { $0 != 0x20 }
            guard let length = Int(String(decoding: digits, as: UTF8.self)), length > digits.count + 1,
                length <= rest.count
            else { throw Self.refusal("a pax record has no length") }
            let text = String(decoding: rest.prefix(length).dropFirst(digits.count + 1).dropLast(), as: UTF8.self)
            rest = rest.dropFirst(length)
            guard text.hasPrefix("size=") else { continue }
            guard let size = Int(text.dropFirst(5)), (0...BackupManifest.File.byteCountMax).contains(size) else {
                throw Self.refusal("a pax record has the size \(text.dropFirst(5).debugDescription)")
            }
            byteCount = size
        }
    }

    static func refusal(_ what: String) -> ServiceError {
        ServiceError(
            .invalidRequest,
            "Standard input is not what `dcpctl backup -` writes: \(what). Decompress it first (zstd -d); unpack an "
                + "archive that another program made, and restore its directory.")
    }
}
