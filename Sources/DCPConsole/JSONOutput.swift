// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import Foundation

/// The output of `--json`: one document, indented, keys in snake_case and in order, so that two outputs can be
/// compared.
public enum JSONOutput {
    /// The document with a line feed at its end. Values that JSON cannot write become the strings `inf`, `-inf`, `nan`:
    /// the LSE of no tokens is minus infinity.
    /// - Throws: `.internal` for a value that cannot be encoded.
    public static func string(_ value: some Encodable) throws(ServiceError) -> String {
        try encode(value, [.prettyPrinted]) + "\n"
    }

    /// The document as one line, without its end: for one document after the other.
    /// - Throws: `.internal` for a value that cannot be encoded.
    public static func line(_ value: some Encodable) throws(ServiceError) -> String { try encode(value, []) }

    private static func encode(
        _ value: some Encodable, _ formatting: JSONEncoder.OutputFormatting
    ) throws(ServiceError) -> String {
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .convertToSnakeCase
        encoder.outputFormatting = formatting.union([.sortedKeys, .withoutEscapingSlashes])
        encoder.nonConformingFloatEncodingStrategy = .convertToString(
            positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
        do { return String(decoding: try encoder.encode(value), as: UTF8.self) } catch {
            throw ServiceError(.internal, "The output cannot be written as JSON: \(error). Report this as a bug.")
        }
    }
}
