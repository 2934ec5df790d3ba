package import DCPCore

/// The settings of one daemon, each with where it came from: flags before environment before file before what is built
/// in.
package struct Configuration: Sendable {
    package struct Value: Hashable, Sendable {
        package var text: String
        package var origin: ConfigurationOrigin

        package init(text: String, origin: ConfigurationOrigin) {
            self.text = text
            self.origin = origin
        }
    }

    /// In the table's order. A key without value and without default is nil.
    package let keys: [ConfigurationKey]
    private let values: [ConfigurationKey: Value]

    /// Looked at from a shell, where the credentials of the unit that will run it are not: what only they decide is left open.
    package var isInspected = false

    package subscript(key: ConfigurationKey) -> Value? { values[key] }

    /// - Parameters:
    ///   - rank: whose; nil for the coordinator, or to check a file without being anybody.
    ///   - flags: what the command line says, as text.
    package init(
        keys: [ConfigurationKey], rank: RankIndex?, flags: [ConfigurationKey: String],
        environment: [String: String], file: ConfigurationFile
    ) throws {
        try Self.checkVariables(environment)
        let own = rank.flatMap { file.rankValues[$0] } ?? [:]
        var values: [ConfigurationKey: Value] = [:]
        for key in keys {
            var found: Value?
            if let text = flags[key] {
                found = Value(text: text, origin: .flag(key.flag))
            } else if let text = environment[key.variable] {
                found = Value(text: text, origin: .variable(key.variable))
            } else if let entry = own[key] ?? file.values[key] {
                found = Value(text: entry.text, origin: .file(file.path, line: entry.line))
            } else if let text = key.defaultValue {
                found = Value(text: text, origin: .builtIn)
            }
            guard var value = found else { continue }
            if key.section == .rank {
                value.text = value.text.replacing("{rank}", with: "\(rank?.value ?? 0)")
            }
            if let refusal = key.kind.refusal(value.text) { throw ConfigurationError(value.origin, refusal) }
            values[key] = value
        }
        self.keys = keys
        self.values = values
    }

    /// A variable that looks like one of ours and is none would be obeyed by nobody.
    private static func checkVariables(_ environment: [String: String]) throws {
        let prefixes = ConfigurationKey.Section.allCases.map { "DCP_\($0.rawValue.uppercased())_" }
        let known = Set(ConfigurationKey.all.map(\.variable))
        let unknown = environment.keys.filter { name in
            prefixes.contains { name.hasPrefix($0) } && !known.contains(name)
        }
        if let name = unknown.sorted().first {
            throw ConfigurationError(
                .variable(name), "is no setting's variable; unset it, or see --print-config --json for the names.")
        }
    }

    // MARK: Values, which are checked

    package func text(_ key: ConfigurationKey) -> String {
        guard let value = values[key] else { preconditionFailure("\(key.path) has no default") }
        return value.text
    }

    package func integer(_ key: ConfigurationKey) -> Int { Int(text(key))! }
    package func seconds(_ key: ConfigurationKey) -> Double { Double(text(key))! }
    package func flag(_ key: ConfigurationKey) -> Bool { text(key) == "true" }

    /// Runs a check that concerns several keys; its refusal names the places of those that are not as built in.
    package func checked<Result>(
        _ keys: [ConfigurationKey], _ body: () throws(ServiceError) -> Result
    ) throws -> Result {
        do throws(ServiceError) {
            return try body()
        } catch {
            let set = keys.compactMap { key in values[key].map { (key, $0) } }.filter { $0.1.origin != .builtIn }
            guard !set.isEmpty else { throw ConfigurationError(.configuration, error.message) }
            let places = set.map { key, value in
                if case .flag = value.origin { return "\(key.flag) \(value.text)" }
                return "\(key.path): \(value.text) (\(value.origin))"
            }
            let isCommandLine = set.contains { if case .flag = $0.1.origin { true } else { false } }
            throw ConfigurationError(
                isCommandLine ? .commandLine : .configuration,
                "\(places.joined(separator: ", ")): \(error.message)")
        }
    }

    /// Keys whose values differ from those of an earlier reading.
    package func changes(since earlier: Configuration) -> [ConfigurationKey] {
        keys.filter { values[$0]?.text != earlier.values[$0]?.text }
    }
}
