// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPWire

extension Frame {
    /// Frames without a request, at the beginning and end of a connection.
    static func greeting(_ message: Message) -> Frame {
        Frame(epoch: .none, tag: Tag(client: ClientID(0), number: 0), message: message)
    }
}
