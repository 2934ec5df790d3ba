// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPFiles
internal import Glibc

/// Free TCP ports on 127.0.0.1.
///
/// Ports are probed by binding them, and freed before the daemons bind them: another program may take one in between.
/// The daemon then refuses to start and says so; the next `up` picks another.
enum LoopbackPorts {
    /// One port for each wish: that one if it is free, otherwise any other.
    /// - Throws: `.internal` when the system has none.
    static func pick(preferring wishes: [UInt16?]) throws(ServiceError) -> [UInt16] {
        var ports: [UInt16] = []
        // All stay bound until the last is chosen, so that no port is chosen twice.
        var probes: [OwnedDescriptor] = []
        for wish in wishes {
            guard let probe = bound(to: wish ?? 0) ?? bound(to: 0) else {
                throw ServiceError(
                    .internal, "No free TCP port on 127.0.0.1: \(systemMessage(errno)). Use Unix sockets: omit --tcp.")
            }
            ports.append(probe.port)
            probes.append(probe.descriptor)
        }
        withExtendedLifetime(probes) {}
        return ports
    }

    private static func bound(to port: UInt16) -> (descriptor: OwnedDescriptor, port: UInt16)? {
        let number = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard number >= 0 else { return nil }
        let descriptor = OwnedDescriptor(number)
        // As a server would: a port whose last connections are in TIME_WAIT is free.
        var yes: Int32 = 1
        setsockopt(number, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<Int32>.size))
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        address.sin_port = port.bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let found = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                // Listening too: two sockets may be bound to one port with SO_REUSEADDR as long as none listens.
                bind(number, $0, length) == 0 && listen(number, 1) == 0 && getsockname(number, $0, &length) == 0
            }
        }
        return found ? (descriptor, UInt16(bigEndian: address.sin_port)) : nil
    }
}
