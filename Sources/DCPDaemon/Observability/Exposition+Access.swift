internal import DCPObservability
internal import DCPTransport

extension Exposition {
    /// Who was refused, every cause from zero, so that the first is seen as a rise; and when the certificate ends.
    mutating func add(_ refused: RefusedConnections, certificateEnd: Int?) {
        add(.connectionsRefused, RefusalCause.ofConnections.map { ([$0.rawValue], Double(refused[$0])) })
        if let certificateEnd { add(.certificateEnd, certificateEnd) }
    }
}
