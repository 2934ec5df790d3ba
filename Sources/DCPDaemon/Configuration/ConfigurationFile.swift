// SPDX-License-Identifier: Apache-2.0

package import DCPCore
internal import DCPFiles
internal import Yams

/// `/etc/dcp/dcp.yaml`: one file for all daemons of a host, so all of it is checked by each of them.
///
/// Read with Yams, which keeps the line of every node; readers that decode into values lose it, and an operator needs
/// it. Scalars are taken as the text they are: `threads: 04` and `threads: "4"` are checked like `--threads` is.
package struct ConfigurationFile: Sendable {
    package struct Entry: Sendable {
        package var text: String
        package var line: Int
    }

    package static let defaultPath = "/etc/dcp/dcp.yaml"
    /// Files beyond this are no configuration.
    static let byteCountMax = 1 << 20

    package let path: String
    package private(set) var values: [Setting: Entry] = [:]
    /// What `ranks` says about single ranks.
    package private(set) var rankValues: [RankIndex: [Setting: Entry]] = [:]

    /// A host without a file: everything is as built in.
    package static func absent(_ path: String) -> ConfigurationFile { ConfigurationFile(path: path) }

    private init(path: String) { self.path = path }

    /// `/dev/null` is how to say that there is none.
    /// - Throws: for a file that cannot be read, that is no YAML, or says anything that is not in the table.
    package init(reading path: String) throws {
        guard path != "/dev/null" else {
            self = .absent(path)
            return
        }
        let bytes: [UInt8]
        do throws(WholeFile.Refusal) { bytes = try WholeFile(path, byteCountMax: Self.byteCountMax).bytes } catch {
            throw ConfigurationError(.configuration, "\(error.message); check --config.")
        }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw ConfigurationError(.configuration, "\(path) is not UTF-8; check --config.")
        }
        try self.init(text, path: path)
    }

    /// - Parameter path: for messages.
    package init(_ text: String, path: String) throws {
        self.path = path
        guard let root = try Self.compose(text, path: path) else { return }
        for (section, name, line) in try pairs(root, of: "the file") {
            guard name != "ranks" else {
                try readRanks(section, line: line)
                continue
            }
            guard let known = Setting.Section(rawValue: name) else {
                throw unknown(
                    name, line: line, of: "the file",
                    among: Setting.Section.allCases.map(\.rawValue) + ["ranks"])
            }
            values.merge(try read(section, known, line: line)) { $1 }
        }
        try checkRankNumbers()
    }

    private static func compose(_ text: String, path: String) throws -> Node? {
        do {
            return try Yams.compose(yaml: text)
        } catch let error as YamlError {
            let (line, problem) = error.located
            throw ConfigurationError(
                .configuration, "\(path)\(line.map { ":\($0)" } ?? ""): is not YAML: \(problem). Correct the line.")
        }
    }

    private func read(
        _ node: Node, _ section: Setting.Section, line: Int
    ) throws -> [Setting: Entry] {
        var values: [Setting: Entry] = [:]
        let keys = Setting.all.filter { $0.section == section }
        for (value, name, line) in try pairs(node, of: "`\(section.rawValue)`", line: line) {
            guard let key = keys.first(where: { $0.name == name }) else {
                throw unknown(name, line: line, of: "`\(section.rawValue)`", among: keys.map(\.name))
            }
            guard case .scalar(let scalar) = value else {
                throw refused(line, "`\(key.path)` takes one value: \(key.domain).")
            }
            guard !scalar.isNull else {
                throw refused(line, "`\(key.path)` has no value; give it one or remove the line.")
            }
            let sample = scalar.string.replacing("{rank}", with: section == .rank ? "0" : "{rank}")
            if let refusal = key.refusal(sample) { throw refused(line, "`\(key.path)`: \(refusal)") }
            values[key] = Entry(text: scalar.string, line: line)
        }
        return values
    }

    private mutating func readRanks(_ node: Node, line: Int) throws {
        for (value, name, line) in try pairs(node, of: "`ranks`", line: line) {
            guard let number = UInt16(name) else {
                throw refused(line, "`\(name)` below `ranks` is not a rank's number; write `0:`, `1:` and so on.")
            }
            rankValues[RankIndex(number)] = try read(value, .rank, line: line)
        }
    }

    /// A number that the cluster does not have is a slip; known only where the file says how many there are.
    private func checkRankNumbers() throws {
        guard let entry = values[CoordinatorKeys.table.cluster.ranks.setting], let count = Int(entry.text) else {
            return
        }
        for (rank, own) in rankValues where Int(rank.value) >= count {
            let line = own.values.map(\.line).min() ?? entry.line
            throw refused(
                line, "`ranks` has \(rank), and `cluster.ranks` is \(count): ranks are numbered 0..<\(count).")
        }
    }

    // MARK: Nodes

    /// The pairs of a mapping, with the key's text and line, counted from 1.
    private func pairs(_ node: Node, of what: String, line: Int? = nil) throws -> [(Node, String, Int)] {
        // A section whose lines are all comments.
        if case .scalar(let scalar) = node, scalar.string.isEmpty { return [] }
        guard case .mapping(let mapping) = node else {
            throw refused(line ?? node.mark?.line ?? 1, "\(what) is not a list of `key: value` lines.")
        }
        return try mapping.map { key, value in
            let line = key.mark?.line ?? line ?? 1
            guard case .scalar(let name) = key else { throw refused(line, "A key of \(what) is not a word.") }
            return (value, name.string, line)
        }
    }

    private func refused(_ line: Int, _ message: String) -> ConfigurationError {
        ConfigurationError(.file(path, line: line), message)
    }

    private func unknown(_ name: String, line: Int, of what: String, among known: [String]) -> ConfigurationError {
        let hint = name.slip(among: known).map { "write `\($0)`; " } ?? ""
        return refused(line, "`\(name)` is not a key of \(what); \(hint)there are \(known.joined(separator: ", ")).")
    }
}
