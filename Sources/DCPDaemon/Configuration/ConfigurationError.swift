// SPDX-License-Identifier: Apache-2.0

/// A configuration that is refused: where it stands, what is wrong, what to do.
package struct ConfigurationError: Error, Sendable, CustomStringConvertible {
    /// EX_USAGE or EX_CONFIG of sysexits.h. systemd restarts after neither.
    package enum Status: Int32, Sendable {
        case commandLine = 64
        case configuration = 78
    }

    package var status: Status
    package var message: String

    package init(_ origin: ConfigurationOrigin, _ message: String) {
        if case .flag = origin { status = .commandLine } else { status = .configuration }
        self.message = "\(origin): \(message)"
    }

    package init(_ status: Status, _ message: String) {
        self.status = status
        self.message = message
    }

    package var description: String { message }
}

/// Where a value came from. Later cases give way to earlier ones.
package enum ConfigurationOrigin: Hashable, Sendable, CustomStringConvertible {
    case flag(String)
    case variable(String)
    case file(String, line: Int)
    case builtIn

    package var description: String {
        switch self {
        case .flag(let name): name
        case .variable(let name): "environment variable \(name)"
        case .file(let path, let line): "\(path):\(line)"
        case .builtIn: "default"
        }
    }
}
