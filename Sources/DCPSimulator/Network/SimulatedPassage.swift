// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPTransport
internal import DCPWire
internal import Glibc

/// Descriptors of real memory in transit between simulated processes: the memory is really shared, and only its
/// transfer is simulated.
final class SimulatedPassage: MemoryPassage {
    private let network: SimulatedNetwork
    private var address: MemoryAddress?

    init(_ network: SimulatedNetwork) { self.network = network }

    deinit { close() }

    func open() throws(ServiceError) -> MemoryAddress {
        let address = network.drawAddress()
        self.address = address
        return address
    }

    func send(_ descriptor: CInt, to address: MemoryAddress) throws(ServiceError) {
        guard network.passesDescriptor else { throw Self.lost }
        // The receiver may be gone; the descriptor is then never taken.
        network.descriptors[address] = dup(descriptor)
    }

    func receive() throws(ServiceError) -> CInt {
        guard let address, let descriptor = network.descriptors.removeValue(forKey: address) else { throw Self.lost }
        return descriptor
    }

    private func close() {
        if let address, let descriptor = network.descriptors.removeValue(forKey: address) { Glibc.close(descriptor) }
    }

    private static var lost: ServiceError { ServiceError(.unreachable, "A descriptor of shared memory got lost.") }
}
