// SPDX-License-Identifier: Apache-2.0

extension Array {
    /// The number of leading elements of a sorted array for which a predicate holds, by binary search.
    /// - Parameter isBefore: true for a prefix of the elements, false for the rest.
    package func sortedCount(where isBefore: (Element) -> Bool) -> Int {
        var (low, high) = (0, count)
        while low < high {
            let middle = (low + high) / 2
            if isBefore(self[middle]) { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
