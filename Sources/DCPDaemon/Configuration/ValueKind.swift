// SPDX-License-Identifier: Apache-2.0

internal import DCPCoordinator
internal import DCPCore
internal import DCPTransport

/// What a value may be, and the value of a text. A flag, a variable and a line of the file go through the same check.
struct ValueKind<Value: Sendable>: Sendable {
    /// For usage lines and tables.
    let placeholder: String
    /// A good value, where a file shows a key without default.
    let example: String
    /// What is allowed, for the reference.
    let domain: String
    /// Whether its flag takes no value: given, it says `true`.
    var isSwitch = false
    let value: @Sendable (String) throws(ValueRefusal) -> Value
}

/// What is wrong with a value and what would be right, without a name before it.
struct ValueRefusal: Error {
    let message: String

    init(_ message: String) { self.message = message }
}

extension ValueKind where Value == Int {
    static func integer(_ range: ClosedRange<Int>, unit: String) -> Self {
        ValueKind(
            placeholder: unit == "GiB" || unit == "MiB" ? unit : "n", example: "\(range.lowerBound)",
            domain: "\(range.lowerBound) to \(range.upperBound) \(unit)"
        ) { text throws(ValueRefusal) in
            guard let value = Int(text) else {
                throw ValueRefusal(
                    "`\(text)` is not a whole number; write one in \(range.lowerBound)...\(range.upperBound).")
            }
            guard range.contains(value) else {
                throw ValueRefusal("\(value) \(unit) are outside \(range.lowerBound)...\(range.upperBound).")
            }
            return value
        }
    }

    /// Bytes, as `ByteSize` reads them.
    static func size(minimum: Int) -> Self {
        ValueKind(placeholder: "size", example: "200GB", domain: "a size from \(minimum) bytes on") {
            text throws(ValueRefusal) in
            guard let size = ByteSize(text) else {
                throw ValueRefusal("`\(text)` is not a size; write one like 200GB or 64MiB.")
            }
            guard size.byteCount >= minimum else {
                throw ValueRefusal("\(size.byteCount) bytes are below the smallest of \(minimum).")
            }
            return size.byteCount
        }
    }
}

extension ValueKind where Value == Duration {
    static func seconds(_ range: ClosedRange<Double>) -> Self {
        ValueKind(
            placeholder: "seconds", example: "\(range.lowerBound)",
            domain: "\(range.lowerBound) to \(range.upperBound) seconds"
        ) { text throws(ValueRefusal) in
            guard let value = duration(text, in: range) else {
                throw ValueRefusal(
                    "`\(text)` is not a number of seconds in \(range.lowerBound)...\(range.upperBound).")
            }
            return value
        }
    }
}

extension ValueKind where Value == Duration? {
    /// `off` is nil.
    static func secondsOrOff(_ range: ClosedRange<Double>) -> Self {
        ValueKind(
            placeholder: "seconds|off", example: "\(range.lowerBound)",
            domain: "\(range.lowerBound) to \(range.upperBound) seconds, or off"
        ) { text throws(ValueRefusal) in
            guard text != "off" else { return nil }
            guard let value = duration(text, in: range) else {
                throw ValueRefusal(
                    "`\(text)` is neither off nor a number of seconds in \(range.lowerBound)...\(range.upperBound).")
            }
            return value
        }
    }
}

/// Whole nanoseconds; what starts with a digit: `nan` and `inf` parse as numbers too.
private func duration(_ text: String, in range: ClosedRange<Double>) -> Duration? {
    guard text.first?.isNumber == true, let value = Double(text), range.contains(value) else { return nil }
    return .nanoseconds(Int64((value * 1e9).rounded()))
}

extension ValueKind where Value == Bool {
    static var boolean: Self {
        ValueKind(placeholder: "true|false", example: "false", domain: "true or false", isSwitch: true) {
            text throws(ValueRefusal) in
            guard text == "true" || text == "false" else {
                throw ValueRefusal("`\(text)` is neither true nor false.")
            }
            return text == "true"
        }
    }

    static var onOff: Self { choice([("on", true), ("off", false)], noun: "a setting") }
}

extension ValueKind {
    static func choice(_ values: [(name: String, value: Value)], noun: String) -> Self {
        let names = values.map(\.name)
        return ValueKind(placeholder: "name", example: names.first ?? "", domain: list(names)) {
            text throws(ValueRefusal) in
            guard let value = values.first(where: { $0.name == text })?.value else {
                throw ValueRefusal("`\(text)` is not \(noun); use \(list(names)).")
            }
            return value
        }
    }
}

extension ValueKind where Value: CaseIterable & RawRepresentable<String> {
    static func choice(_: Value.Type, noun: String) -> Self {
        choice(Value.allCases.map { ($0.rawValue, $0) }, noun: noun)
    }
}

extension ValueKind where Value == Exchange {
    static var exchange: Self { choice(Exchange.allCases.map { ($0.name, $0) }, noun: "an exchange") }
}

private func list(_ values: [String]) -> String {
    guard let last = values.last, values.count > 1 else { return values.first ?? "" }
    return values.dropLast().joined(separator: ", ") + " or " + last
}
