// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser

/// A table whose settings are the flags of a daemon.
package protocol FlagTable: SettingTable {
    static var table: Self { get }
}

extension CoordinatorKeys: FlagTable {}
extension RankKeys: FlagTable {}

/// The flags of a daemon's settings: one for each, made from its table, with the text that was given.
///
/// ArgumentParser finds options by reflection, and their values by the names found there; both are answered from the table.
package struct SettingOptions<Table: FlagTable>: ParsableArguments, CustomReflectable {
    /// What the command line says, as text.
    package private(set) var given: [Setting: String] = [:]

    private struct Key: CodingKey {
        let stringValue: String
        let intValue: Int? = nil

        init(_ setting: Setting) { stringValue = setting.name }
        init?(stringValue: String) { self.stringValue = stringValue }
        init?(intValue: Int) { nil }
    }

    package init() {}

    package init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: Key.self)
        for setting in Table.table.settings {
            if setting.isSwitch {
                if try values.decode(Flag<Bool>.self, forKey: Key(setting)).wrappedValue { given[setting] = "true" }
            } else if let text = try values.decode(Option<String?>.self, forKey: Key(setting)).wrappedValue {
                given[setting] = text
            }
        }
    }

    package var customMirror: Mirror {
        let options = Table.table.settings.map { setting -> (label: String?, value: Any) in
            let name = NameSpecification.customLong(setting.name)
            if setting.isSwitch {
                return (setting.name, Flag(wrappedValue: false, name: name, help: setting.help))
            }
            return (setting.name, Option<String?>(name: name, help: setting.help))
        }
        return Mirror(self, children: options, displayStyle: .struct)
    }

    /// Checks them one by one, so that a slip is answered with the usage.
    func check() throws {
        for setting in Table.table.settings {
            guard let text = given[setting] else { continue }
            if let refusal = setting.refusal(text.replacing("{rank}", with: "0")) {
                throw ValidationError("\(setting.flag): \(refusal)")
            }
        }
    }
}

extension Setting {
    fileprivate var help: ArgumentHelp {
        let initial = defaultValue.map { " (default: \($0))" } ?? ""
        return ArgumentHelp(isSwitch ? "\(summary) \(detail)" : summary + initial, valueName: placeholder)
    }
}
