// SPDX-License-Identifier: Apache-2.0

/// One setting of the daemons under all its names, whatever the type of its value.
///
/// `block-tokens` of section `cluster` is the flag `--block-tokens`, the environment variable
/// `DCP_CLUSTER_BLOCK_TOKENS` and the line `block-tokens: 64` below `cluster:` in the file. The names follow from
/// section and name, so none can be forgotten or spelled otherwise.
package struct Setting: Hashable, Sendable {
    package enum Section: String, CaseIterable, Sendable {
        /// What the coordinator makes of the cluster; for life.
        case cluster
        case coordinator
        /// Every rank of the host; `ranks: { 2: ... }` says otherwise for one.
        case rank
    }

    package let section: Section
    package let name: String
    /// nil: not set unless somebody sets it.
    package let defaultValue: String?
    /// Whether a reload (SIGHUP) takes a new value; everything else takes a restart.
    package let isReloadable: Bool
    /// One sentence: the help of the flag, and the beginning of the reference.
    package let summary: String
    /// What else an operator should know; for the reference only.
    package let detail: String
    /// For usage lines and tables.
    package let placeholder: String
    /// A good value, where a file shows a key without default.
    package let example: String
    /// What is allowed, for the reference.
    package let domain: String
    /// Whether its flag takes no value: given, it says `true`.
    package let isSwitch: Bool
    /// The value of a text, of the type of its `ConfigurationKey`.
    let value: @Sendable (String) throws(ValueRefusal) -> any Sendable

    /// - Returns: nil for a good value, else what is wrong with it and what would be right, without a name before it.
    package func refusal(_ text: String) -> String? {
        do throws(ValueRefusal) { _ = try value(text) } catch { return error.message }
        return nil
    }

    /// As the file nests it, and as messages name it.
    package var path: String { "\(section.rawValue).\(name)" }
    package var flag: String { "--\(name)" }
    package var variable: String {
        "DCP_" + path.uppercased().map { $0 == "." || $0 == "-" ? "_" : String($0) }.joined()
    }

    package static func == (a: Setting, b: Setting) -> Bool { a.path == b.path }
    package func hash(into hasher: inout Hasher) { hasher.combine(path) }
}
