// SPDX-License-Identifier: Apache-2.0

package import DCPCore

/// The settings of one daemon, each with where it came from: flags before environment before file before what is built
/// in.
package struct Configuration: Sendable {
    /// A value as somebody has written it.
    package struct Statement: Hashable, Sendable {
        package var text: String
        package var origin: ConfigurationOrigin

        package init(text: String, origin: ConfigurationOrigin) {
            self.text = text
            self.origin = origin
        }
    }

    /// In the table's order.
    package let settings: [Setting]
    private let statements: [Setting: Statement]
    /// Of the types of their keys.
    private let values: [Setting: any Sendable]

    /// Looked at from a shell, where the credentials of the unit that will run it are not: what only they decide is left open.
    package var isInspected = false

    /// - Precondition: the key is one of this daemon's.
    package subscript<Value>(key: ConfigurationKey<Value>) -> Value {
        guard let value = values[key.setting] else {
            guard let unset = key.unset else { preconditionFailure("\(key.setting.path) is no setting of this daemon") }
            return unset
        }
        guard let typed = value as? Value else { preconditionFailure("\(key.setting.path) is no \(Value.self)") }
        return typed
    }

    /// nil for a setting that nobody has set and that has no default.
    package func statement(of setting: Setting) -> Statement? { statements[setting] }

    /// - Parameters:
    ///   - rank: whose; nil for the coordinator, or to check a file without being anybody.
    ///   - flags: what the command line says, as text.
    package init(
        settings: [Setting], rank: RankIndex?, flags: [Setting: String],
        environment: [String: String], file: ConfigurationFile
    ) throws {
        try Self.checkVariables(environment)
        let own = rank.flatMap { file.rankValues[$0] } ?? [:]
        var statements: [Setting: Statement] = [:]
        var values: [Setting: any Sendable] = [:]
        for setting in settings {
            var found: Statement?
            if let text = flags[setting] {
                found = Statement(text: text, origin: .flag(setting.flag))
            } else if let text = environment[setting.variable] {
                found = Statement(text: text, origin: .variable(setting.variable))
            } else if let entry = own[setting] ?? file.values[setting] {
                found = Statement(text: entry.text, origin: .file(file.path, line: entry.line))
            } else if let text = setting.defaultValue {
                found = Statement(text: text, origin: .builtIn)
            }
            guard var statement = found else { continue }
            if setting.section == .rank {
                statement.text = statement.text.replacing("{rank}", with: "\(rank?.value ?? 0)")
            }
            do throws(ValueRefusal) { values[setting] = try setting.value(statement.text) } catch {
                throw ConfigurationError(statement.origin, error.message)
            }
            statements[setting] = statement
        }
        self.settings = settings
        self.statements = statements
        self.values = values
    }

    /// Refuses a variable with the prefix of a section that is no setting's: it would have no effect.
    private static func checkVariables(_ environment: [String: String]) throws {
        let prefixes = Setting.Section.allCases.map { "DCP_\($0.rawValue.uppercased())_" }
        let known = Set(Setting.all.map(\.variable))
        let unknown = environment.keys.filter { name in
            prefixes.contains { name.hasPrefix($0) } && !known.contains(name)
        }
        if let name = unknown.sorted().first {
            throw ConfigurationError(
                .variable(name), "does not belong to a setting; unset it, or see --print-config --json for the names.")
        }
    }

    /// Runs a check that concerns several settings; its refusal names the places of those that are not as built in.
    package func checked<Result>(
        _ settings: [Setting], _ body: () throws(ServiceError) -> Result
    ) throws -> Result {
        do throws(ServiceError) {
            return try body()
        } catch {
            let set = settings.compactMap { key in statements[key].map { (key, $0) } }.filter {
                $0.1.origin != .builtIn
            }
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

    /// Settings whose values differ from those of an earlier reading.
    package func changes(since earlier: Configuration) -> [Setting] {
        settings.filter { statements[$0]?.text != earlier.statements[$0]?.text }
    }
}
