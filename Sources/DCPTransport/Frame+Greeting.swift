internal import DCPCore
internal import DCPWire

extension Frame {
    /// Of no request: what a connection begins and ends with.
    static func greeting(_ message: Message) -> Frame {
        Frame(epoch: .none, tag: Tag(client: ClientID(0), number: 0), message: message)
    }
}
