/// One setting of the daemons under all its names.
///
/// `block-tokens` of section `cluster` is the flag `--block-tokens`, the environment variable
/// `DCP_CLUSTER_BLOCK_TOKENS` and the line `block-tokens: 64` below `cluster:` in the file. The names follow from
/// section and name, so none can be forgotten or spelled otherwise.
package struct ConfigurationKey: Hashable, Sendable {
    package enum Section: String, CaseIterable, Sendable {
        /// What the coordinator makes of the cluster; for life.
        case cluster
        case coordinator
        /// Every rank of the host; `ranks: { 2: ... }` says otherwise for one.
        case rank
    }

    package let section: Section
    package let name: String
    package let kind: ValueKind
    /// nil: not set unless somebody sets it.
    package let defaultValue: String?
    /// Whether a reload (SIGHUP) takes a new value; everything else takes a restart.
    package let isReloadable: Bool
    /// One sentence: the help of the flag, and the beginning of the reference.
    package let summary: String
    /// What else an operator should know; for the reference only.
    package let detail: String

    package init(
        _ section: Section, _ name: String, _ kind: ValueKind, default defaultValue: String?,
        isReloadable: Bool = false, _ summary: String, _ detail: String = ""
    ) {
        self.section = section
        self.name = name
        self.kind = kind
        self.defaultValue = defaultValue
        self.isReloadable = isReloadable
        self.summary = summary
        self.detail = detail
    }

    /// As the file nests it, and as messages name it.
    package var path: String { "\(section.rawValue).\(name)" }
    package var flag: String { "--\(name)" }
    package var variable: String {
        "DCP_" + path.uppercased().map { $0 == "." || $0 == "-" ? "_" : String($0) }.joined()
    }

    package static func == (a: ConfigurationKey, b: ConfigurationKey) -> Bool { a.path == b.path }
    package func hash(into hasher: inout Hasher) { hasher.combine(path) }
}
