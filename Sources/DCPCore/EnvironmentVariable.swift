internal import Glibc

/// What the environment says, in one way everywhere: a variable that is set and empty is not set, as for a shell's `${NAME:-}`.
package enum EnvironmentVariable {
    package static func value(_ name: String) -> String? {
        guard let text = getenv(name), text.pointee != 0 else { return nil }
        return String(cString: text)
    }
}
