// SPDX-License-Identifier: Apache-2.0

internal import DCPObservability
internal import DCPTransport

extension Exposition {
    /// Refused connections, with every cause from zero, so that the first one appears as a rise; and the end of the
    /// certificate.
    mutating func add(_ refused: RefusedConnections, certificateEnd: Int?) {
        add(.connectionsRefused, RefusalCause.ofConnections.map { ([$0.rawValue], Double(refused[$0])) })
        if let certificateEnd { add(.certificateEnd, certificateEnd) }
    }
}
