// SPDX-License-Identifier: Apache-2.0

/// A setting with the type of its value: `configuration[keys.threads]` is an `Int` that has been checked.
package struct ConfigurationKey<Value: Sendable>: Sendable {
    package let setting: Setting
    /// The value while nobody sets one; nil where there is a default, which is a text like any other.
    let unset: Value?

    init(
        _ section: Setting.Section, _ name: String, _ kind: ValueKind<Value>, default text: String,
        isReloadable: Bool = false, _ summary: String, _ detail: String = ""
    ) {
        setting = Setting(section, name, kind, default: text, isReloadable, summary, detail)
        unset = nil
    }

    init(
        _ section: Setting.Section, _ name: String, _ kind: ValueKind<Value>, unset: Value, isReloadable: Bool = false,
        _ summary: String, _ detail: String = ""
    ) {
        setting = Setting(section, name, kind, default: nil, isReloadable, summary, detail)
        self.unset = unset
    }

    /// A setting that need not be set.
    init<Wrapped>(
        _ section: Setting.Section, _ name: String, _ kind: ValueKind<Wrapped>, isReloadable: Bool = false,
        _ summary: String, _ detail: String = ""
    ) where Value == Wrapped? {
        setting = Setting(section, name, kind, default: nil, isReloadable, summary, detail)
        unset = .some(nil)
    }
}

extension Setting {
    fileprivate init<Value>(
        _ section: Section, _ name: String, _ kind: ValueKind<Value>, default defaultValue: String?,
        _ isReloadable: Bool, _ summary: String, _ detail: String
    ) {
        self.init(
            section: section, name: name, defaultValue: defaultValue, isReloadable: isReloadable, summary: summary,
            detail: detail, placeholder: kind.placeholder, example: kind.example, domain: kind.domain,
            isSwitch: kind.isSwitch, value: { text throws(ValueRefusal) in try kind.value(text) })
    }
}

/// A part of the table: its properties are keys, or parts.
package protocol SettingTable: Sendable {}

/// What a `SettingTable` finds among its properties.
protocol SettingCarrier {
    var setting: Setting { get }
}

extension ConfigurationKey: SettingCarrier {}

extension SettingTable {
    /// Every setting, in the order in which they are declared. They are reflected, so that none can be left out.
    package var settings: [Setting] {
        Mirror(reflecting: self).children.flatMap { child -> [Setting] in
            switch child.value {
            case let key as any SettingCarrier: [key.setting]
            case let table as any SettingTable: table.settings
            default: preconditionFailure("\(child.label ?? "a property") of \(Self.self) is neither key nor table")
            }
        }
    }
}

extension Setting {
    /// Those a daemon reads.
    package static let ofCoordinator = CoordinatorKeys.table.settings
    package static let ofRank = RankKeys.table.settings
    /// In the order of the reference.
    package static let all = ofCoordinator + ofRank
}
