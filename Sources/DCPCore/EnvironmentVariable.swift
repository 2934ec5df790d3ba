// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// Environment variables, with the same rule everywhere: a variable that is set but empty counts as unset, as in a
/// shell's `${NAME:-}`.
package enum EnvironmentVariable {
    package static func value(_ name: String) -> String? {
        guard let text = getenv(name), text.pointee != 0 else { return nil }
        return String(cString: text)
    }
}
