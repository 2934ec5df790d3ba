internal import DCPCoordinator
internal import DCPCore
internal import DCPWire

/// What has to be the same for two releases to work together, and on what is stored: a package compares it with the release that it
/// replaces.
package enum FormatNumbers {
    /// `protocol 4, stores 4, state 2`
    package static var line: String {
        "protocol \(FrameHeader.version), stores \(LayoutFingerprint.storeFormat), state \(StateCoding.format)"
    }
}
