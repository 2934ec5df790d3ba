// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// The JSON of a safetensors header, parsed strictly from untrusted bytes.
///
/// Foundation's parser is not used: it keeps one of two members of the same name, turns 1.0 into 1 and true into a
/// number, and has no limits. This parser refuses duplicates and limits depth, elements and members, so that its memory
/// is a small multiple of that for a valid header of `membersMax` tensors.
struct HeaderJSON {
    enum Value {
        case object([(name: String, value: Value)])
        case array([Value])
        case string(String)
        /// As written: `12`, `-1`, `1.5e3`. Whether it is a size is for the reader to say.
        case number(String)
        /// true, false or null.
        case literal(String)
    }

    /// What is wrong, and at which byte of the header.
    struct SyntaxError: Error {
        var message: String
        var offset: Int
    }

    /// Header, tensor, its two arrays: 3 levels. Others are members this reader does not know.
    static let depthMax = 8
    static let elementsMax = 64
    static let membersMax = 100_000
    static let valuesMax = 2_000_000

    private let bytes: [UInt8]
    private var offset = 0
    private var values = 0

    private init(_ bytes: [UInt8]) { self.bytes = bytes }

    static func parse(_ bytes: [UInt8]) throws(SyntaxError) -> Value {
        var parser = HeaderJSON(bytes)
        parser.skipSpace()
        let value = try parser.value(depth: 1)
        parser.skipSpace()
        guard parser.offset == bytes.count else { throw parser.error("something follows the end of the JSON object") }
        return value
    }

    private func error(_ message: String) -> SyntaxError { SyntaxError(message: message, offset: offset) }
    private var current: UInt8? { offset < bytes.count ? bytes[offset] : nil }

    private mutating func skipSpace() {
        while let byte = current, byte == 0x20 || byte == 0x0a || byte == 0x0d || byte == 0x09 { offset += 1 }
    }

    private mutating func expect(_ character: Unicode.Scalar) throws(SyntaxError) {
        guard current == UInt8(ascii: character) else { throw error("`\(character)` expected") }
        offset += 1
    }

    private mutating func value(depth: Int) throws(SyntaxError) -> Value {
        guard depth <= Self.depthMax else { throw error("nested deeper than \(Self.depthMax) levels") }
        values += 1
        guard values <= Self.valuesMax else { throw error("more than \(Self.valuesMax) JSON values") }
        guard let first = current else { throw error("the header ends inside a value") }
        switch first {
        case UInt8(ascii: "{"): return .object(try object(depth: depth))
        case UInt8(ascii: "["): return .array(try array(depth: depth))
        case UInt8(ascii: "\""): return .string(try string())
        case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): return .number(try number())
        case UInt8(ascii: "t"): return try literal("true")
        case UInt8(ascii: "f"): return try literal("false")
        case UInt8(ascii: "n"): return try literal("null")
        default: throw error("not a JSON value")
        }
    }

    private mutating func object(depth: Int) throws(SyntaxError) -> [(name: String, value: Value)] {
        var members: [(name: String, value: Value)] = []
        var names: Set<NameKey> = []
        try expect("{")
        skipSpace()
        if current == UInt8(ascii: "}") {
            offset += 1
            return members
        }
        while true {
            let name = try string()
            guard names.insert(NameKey(name)).inserted else {
                throw error("the name \(name.debugDescription) occurs twice")
            }
            guard members.count < Self.membersMax else { throw error("more than \(Self.membersMax) members") }
            skipSpace()
            try expect(":")
            skipSpace()
            members.append((name, try value(depth: depth + 1)))
            skipSpace()
            if current == UInt8(ascii: "}") { break }
            try expect(",")
            skipSpace()
        }
        offset += 1
        return members
    }

    private mutating func array(depth: Int) throws(SyntaxError) -> [Value] {
        var elements: [Value] = []
        try expect("[")
        skipSpace()
        if current == UInt8(ascii: "]") {
            offset += 1
            return elements
        }
        while true {
            guard elements.count < Self.elementsMax else { throw error("more than \(Self.elementsMax) elements") }
            elements.append(try value(depth: depth + 1))
            skipSpace()
            if current == UInt8(ascii: "]") { break }
            try expect(",")
            skipSpace()
        }
        offset += 1
        return elements
    }

    private mutating func literal(_ text: String) throws(SyntaxError) -> Value {
        guard bytes[offset...].starts(with: text.utf8) else { throw error("not a JSON value") }
        offset += text.utf8.count
        return .literal(text)
    }
}

// MARK: Strings and numbers

extension HeaderJSON {
    private mutating func string() throws(SyntaxError) -> String {
        let start = offset
        try expect("\"")
        var text: [UInt8] = []
        while true {
            guard let byte = current else { throw error("the header ends inside a string") }
            offset += 1
            switch byte {
            case UInt8(ascii: "\""):
                guard let string = String(validating: text, as: UTF8.self) else {
                    throw SyntaxError(message: "a string is not valid UTF-8", offset: start)
                }
                return string
            case UInt8(ascii: "\\"): text.append(contentsOf: try escape())
            case 0..<0x20: throw error("a control character inside a string")
            default: text.append(byte)
            }
        }
    }

    private mutating func escape() throws(SyntaxError) -> [UInt8] {
        guard let byte = current else { throw error("the header ends inside a string") }
        offset += 1
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): return [byte]
        case UInt8(ascii: "b"): return [0x08]
        case UInt8(ascii: "f"): return [0x0c]
        case UInt8(ascii: "n"): return [0x0a]
        case UInt8(ascii: "r"): return [0x0d]
        case UInt8(ascii: "t"): return [0x09]
        case UInt8(ascii: "u"):
            var code = UInt32(try hexadecimal())
            if (0xd800..<0xdc00).contains(code) {
                guard bytes[offset...].starts(with: [UInt8(ascii: "\\"), UInt8(ascii: "u")]) else {
                    throw error("half a surrogate pair")
                }
                offset += 2
                let low = UInt32(try hexadecimal())
                guard (0xdc00..<0xe000).contains(low) else { throw error("half a surrogate pair") }
                code = 0x10000 + (code - 0xd800) << 10 + (low - 0xdc00)
            }
            guard let scalar = Unicode.Scalar(code) else { throw error("half a surrogate pair") }
            return Array(String(Character(scalar)).utf8)
        default: throw error("an unknown escape inside a string")
        }
    }

    private mutating func hexadecimal() throws(SyntaxError) -> UInt16 {
        var value: UInt16 = 0
        for _ in 0..<4 {
            guard let byte = current, let digit = Character(Unicode.Scalar(byte)).hexDigitValue else {
                throw error("four hexadecimal digits expected after \\u")
            }
            value = value << 4 | UInt16(digit)
            offset += 1
        }
        return value
    }

    private mutating func number() throws(SyntaxError) -> String {
        let start = offset
        func isDigit(_ byte: UInt8?) -> Bool { byte.map { (0x30...0x39).contains($0) } ?? false }
        func digits(_ parser: inout HeaderJSON) throws(SyntaxError) {
            guard isDigit(parser.current) else { throw parser.error("a digit expected") }
            while isDigit(parser.current) { parser.offset += 1 }
        }
        if current == UInt8(ascii: "-") { offset += 1 }
        if current == UInt8(ascii: "0") { offset += 1 } else { try digits(&self) }
        if current == UInt8(ascii: ".") {
            offset += 1
            try digits(&self)
        }
        if current == UInt8(ascii: "e") || current == UInt8(ascii: "E") {
            offset += 1
            if current == UInt8(ascii: "+") || current == UInt8(ascii: "-") { offset += 1 }
            try digits(&self)
        }
        return String(decoding: bytes[start..<offset], as: UTF8.self)
    }
}
