// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import DCPStore

extension ShardCache {
    /// Holds the store as the last commit has left it, for a backup. While the reader lives no page that is freed is used
    /// again.
    public func copy() throws(ServiceError) -> StoredPagesReader {
        let copy = try mapping { () throws(StoreError) in try StoreCopy(of: environment) }
        return { [rank] page in
            Result { () throws(StoreError) in try copy.read(from: page) }.mapError { ServiceError($0, rank: rank) }.map
            {
                StoredPages(
                    pageByteCount: copy.pageByteCount, pages: copy.pages,
                    runs: $0.runs, bytes: $0.bytes, next: $0.next)
            }
        }
    }
}
