internal import DCPCore
internal import DCPTransport
internal import DCPWire
internal import Glibc

/// Descriptors of real memory on their way between simulated processes: what is shared is shared, and only its passing drawn.
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
        // Whoever waited there may be gone: then nobody takes it.
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
