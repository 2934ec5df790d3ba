// SPDX-License-Identifier: Apache-2.0

internal import DCPConsole
internal import DCPCore

/// What `--print-config` shows: every key with its value, its default and where the value came from.
struct ConfigurationReport {
    private struct Row: Encodable {
        var key: String
        var value: String?
        var `default`: String?
        var origin: String
        var flag: String
        var variable: String
        var reloadable: Bool
    }

    let configuration: Configuration

    func text() -> String {
        var table = TextTable(
            [TextTable.Column("KEY"), TextTable.Column("VALUE", alignment: .left)]
                + [TextTable.Column("DEFAULT", alignment: .left), TextTable.Column("FROM")])
        for key in configuration.settings {
            let value = configuration.statement(of: key)
            table.append([
                key.path, value?.text ?? "-", key.defaultValue ?? "-", "\(value?.origin ?? .builtIn)",
            ])
        }
        return table.rendered() + "\n"
    }

    func json() throws -> String {
        let rows = configuration.settings.map { key in
            let value = configuration.statement(of: key)
            return Row(
                key: key.path, value: value?.text, default: key.defaultValue,
                origin: "\(value?.origin ?? .builtIn)", flag: key.flag, variable: key.variable,
                reloadable: key.isReloadable)
        }
        return try JSONOutput.string(rows)
    }
}
