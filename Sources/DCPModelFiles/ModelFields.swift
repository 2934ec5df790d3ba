// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPFiles
internal import Yams

/// The keys of a mapping in a model file or a config.json.
///
/// Errors have the file, the line, the key's path, its value and the remedy. Both formats are read with Yams, because
/// JSON is YAML but for the halves of a surrogate pair: unlike Foundation's decoders, it keeps line numbers and refuses
/// duplicate keys.
struct ModelFields {
    /// Files beyond this describe no model.
    static let byteCountMax = 1 << 20

    let file: String
    /// The mapping's own path, such as `kinds.local`; empty for the whole file.
    let path: String
    /// In the order of the file.
    let names: [String]
    private let fields: [String: (node: Node, line: Int)]
    private let line: Int

    /// - Throws: `.invalidModel` for a file that cannot be read, or is no mapping.
    init(reading file: String) throws(ServiceError) {
        try self.init(try Self.text(of: file), file: file)
    }

    /// - Parameter file: for messages.
    init(_ text: String, file: String) throws(ServiceError) {
        guard let root = try Self.root(of: text, file: file), case .mapping = root else {
            throw ServiceError(
                .invalidModel, "\(file) has no keys; give a model file, or a config.json with its --config.")
        }
        try self.init(root, file: file, path: "", line: 1)
    }

    private init(_ node: Node, file: String, path: String, line: Int) throws(ServiceError) {
        guard case .mapping(let mapping) = node else {
            throw ServiceError(
                .invalidModel, "\(file):\(line): `\(path)` is not a mapping of keys to values; correct it.")
        }
        var (names, fields): ([String], [String: (Node, Int)]) = ([], [:])
        for (key, value) in mapping {
            let line = key.mark?.line ?? line
            guard case .scalar(let name) = key else {
                throw ServiceError(.invalidModel, "\(file):\(line): a key of `\(path)` is not a word; correct it.")
            }
            // `0` and `"0"` are two keys of YAML, and one here.
            guard fields.updateValue((value, line), forKey: name.string) == nil else {
                throw ServiceError(
                    .invalidModel, "\(file):\(line): `\(name.string)` is given twice in `\(path)`; omit one of them.")
            }
            names.append(name.string)
        }
        (self.file, self.path, self.line, self.names, self.fields) = (file, path, line, names, fields)
    }

    private static func root(of text: String, file: String) throws(ServiceError) -> Node? {
        do {
            let text = text.first { !$0.isWhitespace } == "{" ? joiningSurrogates(text) : text
            // Aliases of aliases make a short file long without end, and Yams compares keys as it composes. When the anchors
            // have names that nobody could know, every alias is an error before that.
            if text.utf8.contains(UInt8(ascii: "&")) {
                let name = String(UInt64.random(in: 0...UInt64.max), radix: 36)
                let parts = text.split(separator: "&", omittingEmptySubsequences: false)
                _ = try Yams.compose(yaml: parts.joined(separator: "&\(name)"))
            }
            return try Yams.compose(yaml: text)
        } catch {
            let (line, problem) = (error as? YamlError)?.located ?? (nil, "\(error)")
            let place = "\(file)\(line.map { ":\($0)" } ?? "")"
            throw ServiceError(
                .invalidModel,
                problem == "found undefined alias"
                    ? "\(place) has an alias (*), which model files cannot have; write what it stands for, or quote it."
                    : "\(place) is neither YAML nor JSON: \(problem). Correct the line.")
        }
    }

    /// JSON escapes a character beyond 16 bits as two halves, `\ud83d\ude00`, and YAML as `\U0001f600`.
    private static func joiningSurrogates(_ text: String) -> String {
        var (joined, rest): ([UInt8], ArraySlice<UInt8>) = ([], Array(text.utf8)[...])
        while let byte = rest.first {
            if let high = escaped(rest), let low = escaped(rest.dropFirst(6)), high >> 10 == 0x36, low >> 10 == 0x37 {
                let scalar = 0x10000 + (high & 0x3FF) << 10 + low & 0x3FF
                joined += Array("\\U\(scalar.hexadecimal)".utf8)
                rest = rest.dropFirst(12)
            } else {
                // What a backslash escapes, such as another one, begins no escape.
                let count = byte == UInt8(ascii: "\\") ? 2 : 1
                joined += rest.prefix(count)
                rest = rest.dropFirst(count)
            }
        }
        return String(decoding: joined, as: UTF8.self)
    }

    /// The number of an escape `\ud83d` that bytes begin with.
    private static func escaped(_ bytes: ArraySlice<UInt8>) -> UInt32? {
        guard bytes.starts(with: [UInt8(ascii: "\\"), UInt8(ascii: "u")]) else { return nil }
        let digits = bytes.dropFirst(2).prefix(4)
        return digits.count == 4 ? UInt32(String(decoding: digits, as: UTF8.self), radix: 16) : nil
    }

    private static func text(of file: String) throws(ServiceError) -> String {
        let bytes: [UInt8]
        do throws(WholeFile.Refusal) { bytes = try WholeFile(file, byteCountMax: byteCountMax).bytes } catch {
            throw error.error(.invalidModel, "give the path of a model file, or of a config.json with its --config")
        }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw ServiceError(.invalidModel, "\(file) is not UTF-8; give a YAML or JSON file.")
        }
        return text
    }
}

// MARK: - Errors

extension ModelFields {
    func keyPath(_ name: String) -> String { path.isEmpty ? name : "\(path).\(name)" }

    /// An error of the whole mapping.
    func error(_ message: String) -> ServiceError {
        ServiceError(.invalidModel, "\(file):\(line): `\(path)`: \(message)")
    }

    /// An error at a key that is there, or at the mapping where it is missing.
    func error(_ name: String, _ message: String) -> ServiceError {
        ServiceError(.invalidModel, "\(file):\(fields[name]?.line ?? line): `\(keyPath(name))` \(message)")
    }

    /// The value of a key that must be there.
    func required<Value>(_ value: Value?, _ name: String, _ remedy: String) throws(ServiceError) -> Value {
        guard let value else { throw error(name, "is missing; \(remedy).") }
        return value
    }

    /// For a file that a person writes: each key is one of some, and has a value.
    func check(keys known: [String]) throws(ServiceError) {
        for name in names {
            guard known.contains(name) else {
                let hint = name.slip(among: known).map { "write `\($0)`; " } ?? ""
                throw error(name, "is not a key; \(hint)there are \(known.joined(separator: ", ")).")
            }
            if case .scalar(let scalar) = fields[name]?.node, scalar.isNull {
                throw error(name, "has no value; give it a value, or omit the key.")
            }
        }
    }
}

// MARK: - Values

/// nil where a key is missing, or null.
extension ModelFields {
    func has(_ name: String) -> Bool { fields[name] != nil }

    private func scalar(_ name: String, _ expected: String) throws(ServiceError) -> Node.Scalar? {
        guard let (node, _) = fields[name] else { return nil }
        guard case .scalar(let scalar) = node else { throw error(name, "is not \(expected); correct it.") }
        return scalar.isNull ? nil : scalar
    }

    func integer(_ name: String, in limits: ClosedRange<Int>) throws(ServiceError) -> Int? {
        let expected = "a whole number in \(limits.lowerBound)...\(limits.upperBound)"
        guard let scalar = try scalar(name, expected) else { return nil }
        guard scalar.style == .plain, let value = Int(scalar.string), limits.contains(value) else {
            throw error(name, "is `\(scalar.string)`, not \(expected); correct it.")
        }
        return value
    }

    func number(_ name: String) throws(ServiceError) -> Double? {
        guard let scalar = try scalar(name, "a number") else { return nil }
        return try number(scalar, name)
    }

    private func number(_ scalar: Node.Scalar, _ name: String) throws(ServiceError) -> Double {
        guard scalar.style == .plain, let value = Double(scalar.string), value.isFinite else {
            throw error(name, "is `\(scalar.string)`, not a finite number; correct it.")
        }
        return value
    }

    func flag(_ name: String) throws(ServiceError) -> Bool? {
        guard let scalar = try scalar(name, "true or false") else { return nil }
        guard scalar.style == .plain, let value = Bool(scalar.string) else {
            throw error(name, "is `\(scalar.string)`, not true or false; correct it.")
        }
        return value
    }

    func text(_ name: String) throws(ServiceError) -> String? { try scalar(name, "a text")?.string }

    func fields(_ name: String) throws(ServiceError) -> ModelFields? {
        guard let (node, line) = fields[name] else { return nil }
        if case .scalar(let scalar) = node, scalar.isNull { return nil }
        return try ModelFields(node, file: file, path: keyPath(name), line: line)
    }

    private func items(_ name: String, _ expected: String, max: Int) throws(ServiceError) -> [Node]? {
        guard let (node, _) = fields[name] else { return nil }
        if case .scalar(let scalar) = node, scalar.isNull { return nil }
        guard case .sequence(let sequence) = node, sequence.count <= max else {
            throw error(name, "is not a list of up to \(max) \(expected); correct it.")
        }
        return Array(sequence)
    }

    /// A list of mappings: `layers[2]` is the path of the third.
    func list(_ name: String, max: Int) throws(ServiceError) -> [ModelFields]? {
        try items(name, "mappings", max: max)?.enumerated().map { (index, node) throws(ServiceError) in
            try ModelFields(
                node, file: file, path: keyPath("\(name)[\(index)]"), line: node.mark?.line ?? fields[name]?.line ?? 1)
        }
    }

    func texts(_ name: String, max: Int) throws(ServiceError) -> [String]? {
        try items(name, "words", max: max)?.map { (node) throws(ServiceError) in
            guard case .scalar(let scalar) = node else { throw error(name, "has an item that is not a word.") }
            return scalar.string
        }
    }

    func numbers(_ name: String, max: Int) throws(ServiceError) -> [Double]? {
        try items(name, "numbers", max: max)?.map { (node) throws(ServiceError) in
            guard case .scalar(let scalar) = node else { throw error(name, "has an item that is not a number.") }
            return try number(scalar, name)
        }
    }
}
