extension Array {
    /// How many elements of a sorted array come before the others, found by halves.
    /// - Parameter isBefore: true for the first of them, and false from some one on.
    package func sortedCount(where isBefore: (Element) -> Bool) -> Int {
        var (low, high) = (0, count)
        while low < high {
            let middle = (low + high) / 2
            if isBefore(self[middle]) { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
