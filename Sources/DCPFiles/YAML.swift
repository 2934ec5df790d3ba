// SPDX-License-Identifier: Apache-2.0

package import Yams

extension YamlError {
    /// The line, where the parser knows it, and the problem in its words.
    package var located: (line: Int?, problem: String) {
        switch self {
        case .scanner(_, let problem, let mark, _), .parser(_, let problem, let mark, _),
            .composer(_, let problem, let mark, _):
            (mark.line, problem)
        case .duplicatedKeysInMapping(let duplicates, let context):
            (
                context.mark.line,
                "duplicate key " + duplicates.map { "`\($0)`" }.joined(separator: ", ")
            )
        default: (nil, "\(self)")
        }
    }
}

extension Node.Scalar {
    /// What YAML calls null, in its spellings.
    package var isNull: Bool { style == .plain && ["", "~", "null", "Null", "NULL"].contains(string) }
}
