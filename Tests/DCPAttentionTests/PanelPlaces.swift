// SPDX-License-Identifier: Apache-2.0

import DCPCore

/// Where a number stands in a panel, counted in numbers: the layout's definition, written a second time.
enum PanelPlaces {
    static func key(token: Int, dim: Int, blockTokens: Int, _ format: CacheFormat) -> Int {
        format == .bfloat16 ? (dim / 2 * blockTokens + token) * 2 + dim % 2 : dim * blockTokens + token
    }

    /// - Parameter tokens: of the panel.
    static func value(token: Int, dim: Int, valueDim: Int, tokens: Int, _ format: CacheFormat) -> Int {
        let (strip, place) = dim.quotientAndRemainder(dividingBy: 64)
        let width = min(64, valueDim - 64 * strip)
        let start = 64 * strip * tokens
        return format == .bfloat16
            ? start + (token / 2 * width + place) * 2 + token % 2 : start + token * width + place
    }
}
