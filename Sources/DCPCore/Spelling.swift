// SPDX-License-Identifier: Apache-2.0

extension String {
    /// The word in a list of which this is most likely a misspelling, or nil if none is close.
    package func slip(among words: [String]) -> String? {
        words.map { (word: $0, distance: distance(to: $0)) }.filter { $0.distance <= 3 }
            .min { $0.distance < $1.distance }?.word
    }

    /// The number of insertions, deletions and replacements between two words (Levenshtein).
    private func distance(to other: String) -> Int {
        let (a, b) = (Array(utf8), Array(other.utf8))
        var row = Array(0...b.count)
        for i in a.indices {
            var diagonal = row[0]
            row[0] = i + 1
            for j in b.indices {
                let replaced = diagonal + (a[i] == b[j] ? 0 : 1)
                diagonal = row[j + 1]
                row[j + 1] = Swift.min(replaced, row[j] + 1, row[j + 1] + 1)
            }
        }
        return row[b.count]
    }
}
