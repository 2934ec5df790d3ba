package import DCPCore
package import DCPWire

/// What a link tells its owner. All calls come on the link's event loop.
package protocol LinkDelegate: AnyObject {
    /// An incoming peer has said hello. Returns the welcome, or throws the refusal that is sent before closing.
    func link(_ link: Link, accepts hello: Hello) throws(ServiceError) -> Hello
    /// Both sides know each other; frames may be sent.
    func link(_ link: Link, opened peer: Hello)
    func link(_ link: Link, received frame: Frame)
    /// Whether payloads go through shared memory from now on; only where both sides would have it so.
    func link(_ link: Link, sharesMemory result: Result<Void, ServiceError>)
    /// The connection is gone; the last call. After `opened` or instead of it, also for a connection that was turned away
    /// before it sent anything: `refusal` tells them apart.
    func link(_ link: Link, closed error: ServiceError)
}

extension LinkDelegate {
    /// For an owner to whom it is all the same.
    package func link(_ link: Link, sharesMemory result: Result<Void, ServiceError>) {}
}
