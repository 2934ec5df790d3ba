// SPDX-License-Identifier: Apache-2.0

package import DCPCore
package import DCPWire

/// The events of a link for its owner. All calls are on the link's event loop.
package protocol LinkDelegate: AnyObject {
    /// An incoming peer has sent its hello. Returns the welcome, or throws the refusal that is sent before closing.
    func link(_ link: Link, accepts hello: Hello) throws(ServiceError) -> Hello
    /// The handshake is complete; frames may be sent.
    func link(_ link: Link, opened peer: Hello)
    func link(_ link: Link, received frame: Frame)
    /// Whether payloads go through shared memory from now on; called only if both sides support it.
    func link(_ link: Link, sharesMemory result: Result<Void, ServiceError>)
    /// The connection is closed; the last call. It comes after `opened` or instead of it, also for a connection that
    /// was refused before it sent anything: `refusal` distinguishes them.
    func link(_ link: Link, closed error: ServiceError)
}

extension LinkDelegate {
    /// For an owner that ignores it.
    package func link(_ link: Link, sharesMemory result: Result<Void, ServiceError>) {}
}
