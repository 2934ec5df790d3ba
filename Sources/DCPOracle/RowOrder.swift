// SPDX-License-Identifier: Apache-2.0

/// `[tokens][heads][dim]` and `[heads][tokens][dim]`: the order of files and references, and that of the system.
public enum RowOrder {
    public static func headMajor<Element>(_ rows: [Element], tokens: Int, heads: Int, dim: Int) -> [Element] {
        swapped(rows, outer: tokens, inner: heads, dim: dim)
    }

    public static func tokenMajor<Element>(_ rows: [Element], tokens: Int, heads: Int, dim: Int) -> [Element] {
        swapped(rows, outer: heads, inner: tokens, dim: dim)
    }

    private static func swapped<Element>(_ rows: [Element], outer: Int, inner: Int, dim: Int) -> [Element] {
        precondition(rows.count == outer * inner * dim)
        var result: [Element] = []
        result.reserveCapacity(rows.count)
        for i in 0..<inner {
            for o in 0..<outer { result += rows[(o * inner + i) * dim..<(o * inner + i + 1) * dim] }
        }
        return result
    }
}
