// SPDX-License-Identifier: Apache-2.0

internal import DCPCoordinator
internal import DCPCore
internal import DCPWire

/// The numbers that must be equal for two releases to work together and on the same data: a package compares them with
/// the release that it replaces.
package enum FormatNumbers {
    /// `protocol 4, stores 5, state 2`
    package static var line: String {
        "protocol \(FrameHeader.version), stores \(LayoutFingerprint.storeFormat), state \(StateCoding.format)"
    }
}
