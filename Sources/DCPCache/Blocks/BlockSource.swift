// SPDX-License-Identifier: Apache-2.0

/// A block of a layer, wherever it is at the moment.
enum BlockSource {
    case memory(MemoryBlock)
    /// In the map, for the writer's thread, which is the only one that deletes.
    case mapped(UnsafeRawPointer)
    case assembled(AssembledBlock)

    var payload: UnsafeRawPointer {
        switch self {
        case .memory(let block): UnsafeRawPointer(block.address)
        case .mapped(let payload): payload
        case .assembled(let block): block.payload
        }
    }
}
