// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// memcpy between buffers that no cache holds: source and destination rotate through more memory than caches have.
///
/// `@unchecked Sendable`: each thread copies within its part.
final class MemoryCopy: @unchecked Sendable {
    let byteCount: Int
    private let places: Int
    private let threads: Int
    private let source: UnsafeMutableRawPointer
    private let destination: UnsafeMutableRawPointer
    private var run = 0

    /// Four times the third-level cache of most machines.
    static let coldByteCount = 128 << 20

    /// - Parameter byteCount: what one thread copies at a time.
    init(byteCount: Int, threads: Int) {
        self.byteCount = byteCount
        self.threads = threads
        places = max(2, Self.coldByteCount / (byteCount * threads))
        let all = places * threads * byteCount
        source = .allocate(byteCount: all, alignment: 4096)
        destination = .allocate(byteCount: all, alignment: 4096)
        // Written, so that the pages are there.
        source.initializeMemory(as: UInt8.self, repeating: 1, count: all)
        destination.initializeMemory(as: UInt8.self, repeating: 2, count: all)
    }

    /// Each thread copies once. Blocks.
    func copy(_ team: Team) {
        let place = run % places
        run += 1
        team.onEach { [self] thread in
            let offset = (place * threads + thread) * byteCount
            memcpy(destination + offset, source + offset, byteCount)
        }
    }

    deinit {
        source.deallocate()
        destination.deallocate()
    }
}
