// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import SwiftASN1
internal import X509

extension GeneralName {
    /// An IP address when it is written as one, else a DNS name.
    init(hostName: String) {
        var four = in_addr()
        var six = in6_addr()
        if inet_pton(AF_INET, hostName, &four) == 1 {
            self = .ipAddress(ASN1OctetString(contentBytes: withUnsafeBytes(of: four) { ArraySlice($0) }))
        } else if inet_pton(AF_INET6, hostName, &six) == 1 {
            self = .ipAddress(ASN1OctetString(contentBytes: withUnsafeBytes(of: six) { ArraySlice($0) }))
        } else {
            self = .dnsName(hostName)
        }
    }

    /// The DNS name, or the address as text; nil for a name of another kind.
    var hostName: String? {
        switch self {
        case .dnsName(let name): name
        case .ipAddress(let address): Self.text(Array(address.bytes))
        default: nil
        }
    }

    private static func text(_ address: [UInt8]) -> String? {
        let family: Int32
        switch address.count {
        case 4: family = AF_INET
        case 16: family = AF_INET6
        default: return nil
        }
        var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        guard inet_ntop(family, address, &text, socklen_t(text.count)) != nil else { return nil }
        return String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }
}
